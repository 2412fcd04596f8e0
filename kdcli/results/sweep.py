"""Records of a sweep: its cells, what became of them, and its table."""

from __future__ import annotations

import statistics
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
        """Tells whether no cell failed."""
        return all(cell.status != "failed" for cell in self.cells)


@dataclass(frozen=True, slots=True)
class TableCell:
    """One setting of a table: the mean of n runs, its sample standard deviation, the published
    number, and ours minus theirs. values: one a finished run; missing: runs that were planned and
    have no result.
    """

    row: str
    column: str
    metric: str
    values: tuple[float, ...]
    n: int
    missing: int
    mean: float | None
    sd: float | None
    paper: float | None
    difference: float | None
    source: str

    @classmethod
    def of(
        cls,
        row: str,
        column: str,
        metric: str,
        values: tuple[float, ...],
        *,
        missing: int = 0,
        paper: float | None = None,
        source: str = "",
    ) -> TableCell:
        """The cell of these runs. sd: n - 1 in the denominator, None below two runs."""
        mean = statistics.fmean(values) if values else None
        return cls(
            row=row,
            column=column,
            metric=metric,
            values=values,
            n=len(values),
            missing=missing,
            mean=mean,
            sd=statistics.stdev(values) if len(values) > 1 else None,
            paper=paper,
            difference=None if mean is None or paper is None else mean - paper,
            source=source,
        )


@dataclass(frozen=True, slots=True)
class CellComparison:
    """The best cell of a line of a table against another of that line.

    difference: by how much its mean is better, over the seeds that both have if there are two; a
    gap is better nearer to 0. low, high: its interval of 95 %, together for all comparisons of the
    metric, over seeds or images, whichever is wider; None where neither could be tested. seeds:
    those that both have; paired: whether the test over seeds was. p_seeds, p_images: of the two
    tests. p_value: the larger, after Holm's correction. stands_out: whether it is below 0.05.
    """

    metric: str
    row: str
    column: str
    other_row: str
    other_column: str
    difference: float
    low: float | None
    high: float | None
    seeds: int
    paired: bool
    p_seeds: float | None
    p_images: float | None
    p_value: float | None
    stands_out: bool


@dataclass(frozen=True, slots=True)
class SweepTable:
    """The `data` of `kd table --json`: a sweep as a table, row by row, column by column, metric by
    metric. comparisons: of the best of each line with the others of its line.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: tuple[TableCell, ...]
    notes: tuple[str, ...]
    comparisons: tuple[CellComparison, ...] = ()
