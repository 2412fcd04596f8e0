"""What `kd import` made of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class ImportResult:
    """A checkpoint that was made of somebody else's weights.

    run: its folder; None where a file was asked for. checkpoint: its file.
    file, file_sha256: what it was made of. table: where in it the weights were, "" at its top;
    other_tables: the tables of tensors beside that. prefix: what was taken off their names.
    network: its name. guessed: whether the shapes of the tensors told it.
    tensors: as many as were taken. left_out: those that were not, by name.
    statistics: whose mean and std are: as given, the data's, or ImageNet's for a network of
    torchvision's. data: the dataset that it was trained on, where that was said.
    """

    run: Path | None
    checkpoint: Path
    file: Path
    file_sha256: str
    table: str
    other_tables: tuple[str, ...]
    prefix: str
    network: str
    guessed: bool
    parameters: int
    tensors: int
    left_out: tuple[str, ...]
    num_classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    statistics: Literal["options", "data", "imagenet"]
    data: str | None = None
