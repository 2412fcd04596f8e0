"""Records of a network that was written for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdcli.results.measures import GateResult

Format = Literal["pytorch", "onnx", "pt2", "torchscript", "hf"]


@dataclass(frozen=True, slots=True)
class ExportCheck:
    """How an exported network, loaded again, answers beside the one that it was made from.

    pictures: how many both were asked about. source: where these are from. largest_difference: of
    any logit; allowed: what it may be at most. agreement: share of the pictures whose likeliest
    class is the same.
    """

    pictures: int
    source: str
    largest_difference: float
    allowed: float
    agreement: float

    @property
    def passed(self) -> bool:
        return self.largest_difference <= self.allowed  # NaN is not


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What eight bits cost.

    calibration: training images that the ranges are from. data: which, as messages say it. tested:
    test images. accuracy: of the network on them; accuracy_int8: of its file; agreement: share of
    them that both answer with the same class. max_drop: points of accuracy that it may lose. Of
    test images without labels no accuracy is known, and the points of agreement lost are held to
    that instead.
    """

    calibration: int
    data: str
    tested: int
    accuracy: float | None
    accuracy_int8: float | None
    agreement: float
    max_drop: float

    @property
    def drop(self) -> float:
        """Points of accuracy lost; without labels, of agreement with the network."""
        if self.accuracy is None or self.accuracy_int8 is None:
            return 100 * (1 - self.agreement)
        return 100 * (self.accuracy - self.accuracy_int8)

    @property
    def gate(self) -> GateResult:
        """Whether that is no more than may be."""
        return GateResult("max_drop", self.max_drop, self.drop, self.drop <= self.max_drop + 1e-9)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A network in another format.

    path: the file, or the folder. size: of all in it, bytes. input: "float32" for normalised
    pictures, "uint8" for pixels as they are; input_shape: C, H, W of one, B of which make a batch.
    opset: of ONNX, else None. check: of the file before it was quantised, where it was. int8: what
    that cost, and gates whether it is too much: then nothing was written, and size is that of what
    would have been.
    """

    checkpoint: str
    network: str
    format: str
    path: str
    size: int
    parameters: int
    classes: int
    input: str
    input_shape: tuple[int, int, int]
    check: ExportCheck
    opset: int | None = None
    warnings: tuple[str, ...] = ()
    int8: Quantisation | None = None
    gates: tuple[GateResult, ...] = ()

    @property
    def written(self) -> bool:
        """Tells whether it was put in place."""
        return all(gate.passed for gate in self.gates)
