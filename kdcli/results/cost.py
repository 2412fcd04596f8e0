"""Records of what networks cost: size, operations and latency. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdcli.results.intervals import Estimate

Form = Literal["eager", "compiled", "onnx", "int8"]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a network takes for a batch. seconds: the median over `repeats` passes, and the
    quartiles around it. form: what ran it; "eager" is PyTorch, operation by operation, in float32;
    "compiled" the same by torch.compile; "onnx" an ONNX file by onnxruntime, "int8" one of 8-bit
    integers. threads: on the CPU.
    """

    form: str
    batch: int
    seconds: Estimate
    repeats: int
    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What one network costs. macs: multiply-accumulates of one image; None where they cannot be
    counted. size_bytes: of its checkpoint on the disk; None where it has none. latencies: empty
    unless measured.
    """

    parameters: int
    macs: int | None
    size_bytes: int | None = None
    latencies: tuple[Latency, ...] = ()

    def latency(self, batch: int, form: str = "eager") -> Latency | None:
        """That of a batch of so many images, where it was measured."""
        found = (each for each in self.latencies if (each.batch, each.form) == (batch, form))
        return next(found, None)

    @property
    def latency_1_ms(self) -> float | None:
        """Milliseconds for one image, in eager PyTorch."""
        return _milliseconds(self.latency(1))

    @property
    def latency_32_ms(self) -> float | None:
        """Milliseconds for 32 images, in eager PyTorch."""
        return _milliseconds(self.latency(32))


def _milliseconds(found: Latency | None) -> float | None:
    return None if found is None else 1000 * found.seconds.value


@dataclass(frozen=True, slots=True)
class CapacityGap:
    """What teacher and student cost. Ratios: teacher over student; None where a side is not known.
    latency_ratio: of one image.
    """

    teacher: Cost
    student: Cost
    parameter_ratio: float
    macs_ratio: float | None
    latency_ratio: float | None = None
