"""Records of a network that was written for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["pytorch", "onnx", "pt2", "torchscript"]


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
class ExportResult:
    """A network in another format.

    path: the file, or the folder. size: of all in it, bytes. input: "float32" for normalised
    pictures, "uint8" for pixels as they are; input_shape: C, H, W of one, B of which make a batch.
    opset: of ONNX, else None.
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
