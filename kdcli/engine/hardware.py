"""Automatic choices of device, precision and batch, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from kdcli.errors import DeviceUnavailable

Wanted = Literal["auto", "fp32", "bf16", "fp16"]


_TEACHER_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting and why it is what it is."""

    value: str
    reason: str


def choose_device(wanted: str, index: int = 0) -> Choice:
    """Resolves "auto", and refuses what this machine does not have.

    Args:
        index: of the CUDA device, where `wanted` names none.

    Raises:
        DeviceUnavailable: no such device here; the message says what there is.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return (
            Choice(f"cuda:{index}", "auto: a CUDA device is here")
            if count
            else Choice("cpu", "auto: no CUDA device here")
        )
    if wanted.startswith("cuda"):
        index = int(wanted.partition(":")[2] or index)
        if index >= count:
            have = (
                f"this machine has {count} CUDA devices"
                if count
                else "this machine has no CUDA device that torch can use"
            )
            raise DeviceUnavailable(
                f"device {wanted} was asked for, but {have}",
                hint="--device auto takes what there is",
            )
        return Choice(f"cuda:{index}", "asked for")
    return Choice(wanted, "asked for")


def choose_precision(wanted: Wanted, device: torch.device) -> Choice:
    """Resolves "auto": bf16 where the device computes it natively, float32 elsewhere.

    Weights, norms, the head and losses are float32 in either case;
    docs/results/speed-and-accuracy.md has what that costs.
    """
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:  # Ampere, the first with bf16 units
            return Choice("bf16", f"auto: compute capability {major}.{minor} >= 8.0")
        return Choice("fp32", f"auto: compute capability {major}.{minor} < 8.0 has no bf16")
    unit = cpu_unit() if device.type == "cpu" else None
    if unit is None:
        return Choice("fp32", f"auto: no bf16 units known on this {device.type}")
    return Choice("bf16", f"auto: this CPU has {unit}")


def choose_teacher_precision(wanted: Wanted, student: Wanted, device: torch.device) -> Choice:
    """Resolves "auto" of the teachers' copies: what was asked for the student, and bf16 where it is
    native if nothing was.
    """
    if wanted != "auto":
        return Choice(wanted, "asked for")
    return (
        Choice(student, "auto: as runtime.precision")
        if student != "auto"
        else choose_precision("auto", device)
    )


def choose_graphs(wanted: Literal["auto", "on", "off"], device: torch.device) -> Choice:
    """Resolves "auto": whether steps are replayed from CUDA graphs.

    Raises:
        DeviceUnavailable: it was asked for, and the device has none.
    """
    if wanted == "on" and device.type != "cuda":
        raise DeviceUnavailable(
            f"runtime.graphs is on, but only CUDA devices have graphs, and this job is on {device}",
            hint="leave it out",
        )
    if wanted != "auto":
        return Choice(wanted, "asked for")
    return Choice(
        "off",
        "auto: not measured on a GPU yet"
        if device.type == "cuda"
        else f"auto: a {device.type} has none",
    )


def choose_teacher_batch(
    wanted: int | None, batch_size: int, device: torch.device, *, graphs: bool = False
) -> Choice:
    """The number of images teachers answer at once: whole minibatches, one of them at least.
    graphs: steps are replayed from them.
    """
    if wanted is not None:
        return Choice(str(max(wanted // batch_size, 1) * batch_size), "asked for")
    if graphs:
        return Choice(str(batch_size), "auto: it answers within the step that is replayed")
    if device.type == "cuda":
        return Choice(
            str(max(_TEACHER_IMAGES // batch_size, 1) * batch_size),
            f"auto: about {_TEACHER_IMAGES} images keep a GPU busy",
        )
    return Choice(str(batch_size), f"auto: larger batches gain nothing on a {device.type}")


def cpu_unit() -> Literal["AMX", "AVX512-BF16"] | None:
    """The unit of this CPU that computes bf16; None where torch would emulate it, which is slower
    than float32.
    """
    units: dict[Literal["AMX", "AVX512-BF16"], str] = {
        "AMX": "_is_amx_tile_supported",
        "AVX512-BF16": "_is_avx512_bf16_supported",
    }
    return next((unit for unit, probe in units.items() if getattr(torch.cpu, probe, bool)()), None)
