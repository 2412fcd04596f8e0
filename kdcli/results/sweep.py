"""Records of a sweep: its cells and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell of a sweep. error: why it failed; metrics: a few numbers for the screen."""

    id: str
    labels: Mapping[str, str]
    status: Literal["done", "skipped", "failed"]
    run: str | None = None
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The `data` of `kd sweep --json`. count: cells of the whole sweep; cells: those that this
    command looked at.
    """

    sweep: str
    count: int
    cells: tuple[CellResult, ...]

    @property
    def complete(self) -> bool:
        """Whether no cell failed."""
        return all(cell.status != "failed" for cell in self.cells)
