"""A sweep as the table of a paper: mean ± sd over seeds, the paper's number and the difference
beside ours.

A cell that was not run is a dot, never a zero. n is always there, and the page says which split,
how many images, which epoch and which command; a number without these is hearsay.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kdcli import formatting
from kdcli.files import read_json
from kdcli.recipe.sweep.cells import Sweep
from kdcli.recipe.writing import recipe_hash
from kdcli.report.tables import metrics
from kdcli.results.measures import Measures
from kdcli.results.run import RunResult
from kdcli.runs.find import finished_runs
from kdcli.runs.read import from_dict

SOLE_COLUMN = ""  # the label of the only column where a layout names no axis for columns

Result = tuple[Mapping[str, str], RunResult | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which axis of the sweep goes where. over: the axis that is averaged. metrics: paths such as
    test.accuracy.

    best: cells of one row, or of one column, compete to be marked as the best; unless given, those
    that differ in method.
    """

    rows: str
    columns: str | None = None
    over: str = "seed"
    metrics: tuple[str, ...] = ("test.accuracy",)
    title: str = ""
    best: Literal["row", "column"] | None = None

    @property
    def compete(self) -> Literal["row", "column"]:
        return self.best or ("column" if "method" in self.rows else "row")


@dataclass(frozen=True, slots=True)
class PaperValue:
    """A published number, in the units of files: accuracy as a fraction. source: paper and
    table.
    """

    row: str
    column: str
    metric: str
    value: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting. values: one per finished run; missing: how many runs were planned but have no
    result.
    """

    row: str
    column: str
    metric: str
    values: tuple[float, ...]
    missing: int = 0
    paper: float | None = None
    source: str = ""
    best: bool = False

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Standard deviation of the sample (n - 1); None below two runs."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper


@dataclass(frozen=True, slots=True)
class Table:
    """A finished table: cells by (row, column, metric). images: test images behind each number, the
    least.
    """

    title: str
    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: Mapping[tuple[str, str, str], Cell]
    notes: tuple[str, ...]
    images: int = 0


def tabulate(
    results: Sequence[Result],
    layout: Layout,
    paper: Sequence[PaperValue] = (),
    *,
    command: str = "kd table",
) -> Table:
    """Gather the runs of a sweep into its table.

    Args:
        results: for each planned run the labels of its axes, and its summary, or None where it has
            none.
        layout: which axis goes where.
        paper: published numbers; those of settings that were not run are shown beside a dot.
        command: what makes this table again.

    Raises:
        UsageError: a metric is no number of a run.
    """
    for metric in (*layout.metrics, *(published.metric for published in paper)):
        metrics.check(metric)
    rows = dict.fromkeys(
        [
            *(labels.get(layout.rows, formatting.MISSING) for labels, _ in results),
            *(entry.row for entry in paper),
        ]
    )
    columns = dict.fromkeys(
        [*(_column(labels, layout) for labels, _ in results), *(entry.column for entry in paper)]
    )
    cells = {
        (row, column, metric): _cell(results, layout, paper, row, column, metric)
        for row in rows
        for column in columns
        for metric in layout.metrics
    }
    summaries = [summary for _, summary in results if summary]
    return Table(
        title=layout.title,
        corner=layout.rows,
        rows=tuple(rows),
        columns=tuple(columns),
        metrics=layout.metrics,
        cells=_marked(cells, layout.compete),
        notes=tuple(_notes(results, layout, cells, command)),
        images=min((summary.test.n for summary in summaries), default=0),
    )


def _column(labels: Mapping[str, str], layout: Layout) -> str:
    return labels.get(layout.columns, formatting.MISSING) if layout.columns else SOLE_COLUMN


def _cell(
    results: Sequence[Result],
    layout: Layout,
    paper: Sequence[PaperValue],
    row: str,
    column: str,
    metric: str,
) -> Cell:
    here = [
        summary
        for labels, summary in results
        if labels.get(layout.rows) == row and _column(labels, layout) == column
    ]
    found = [metrics.value(summary, metric) for summary in here]
    values = tuple(number for number in found if number is not None)
    known = next(
        (
            entry
            for entry in paper
            if (entry.row, entry.column, entry.metric) == (row, column, metric)
        ),
        None,
    )
    return Cell(
        row,
        column,
        metric,
        values,
        missing=len(found) - len(values),
        paper=known.value if known else None,
        source=known.source if known else "",
    )


def _marked(
    cells: Mapping[tuple[str, str, str], Cell], along: Literal["row", "column"]
) -> dict[tuple[str, str, str], Cell]:
    """The cells, with the best of each row or column marked; one that competes with nobody is
    not.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells.values():
        if cell.mean is not None:
            groups.setdefault(
                (cell.row if along == "row" else cell.column, cell.metric), []
            ).append(cell)
    best = set()
    for (_, metric), group in groups.items():
        key = metrics.closeness(metric)
        top = max(key(cell.mean) for cell in group if cell.mean is not None)
        best |= {
            id(cell)
            for cell in group
            if len(group) > 1 and cell.mean is not None and key(cell.mean) == top
        }
    return {place: replace(cell, best=id(cell) in best) for place, cell in cells.items()}


# ---- what the page must say ----------------------------------------------------------------------


def _notes(
    results: Sequence[Result],
    layout: Layout,
    cells: Mapping[tuple[str, str, str], Cell],
    command: str,
) -> Iterator[str]:
    summaries = [summary for _, summary in results if summary]
    held_out = [metric.startswith("val.") for metric in layout.metrics]
    tested = [(summary.data, summary.test) for summary in summaries if not all(held_out)]
    held = [(summary.data, summary.val) for summary in summaries if summary.val and any(held_out)]
    for measured, where in (
        (tested, "on the test split"),
        (held, "on images held out of the training set"),
    ):
        if measured:
            yield f"Measured {where}, {_images(measured)}, {_epochs(measured)}."
    if any(metric.startswith("excluded.") for metric in layout.metrics) and (
        sizes := sorted(_missing_images(summaries))
    ):
        amounts = " to ".join(
            formatting.thousands(size) for size in dict.fromkeys((sizes[0], sizes[-1]))
        )
        yield f"The missing class has {amounts} of these images."
    yield f"Mean ± sample standard deviation over {layout.over}s; {_seeds(cells, layout.over)}."
    missing = sum(summary is None for _, summary in results)
    if missing:
        yield (
            f"{formatting.plural(missing, 'run')} of {len(results)} "
            f"{'has' if missing == 1 else 'have'} no result yet ({formatting.MISSING} where a cell "
            "has none)."
        )
    if sources := sorted({cell.source for cell in cells.values() if cell.source}):
        yield f"Paper: {'; '.join(sources)}. Δ is ours minus the paper's."
    yield f"Made by: {command}"


def _list(values: Iterator[str]) -> str:
    return " and ".join(dict.fromkeys(values))


def _images(measured: Sequence[tuple[str, Measures]]) -> str:
    sizes = dict.fromkeys((data, measures.n) for data, measures in measured)
    return "n = " + ", ".join(f"{formatting.thousands(n)} images ({data})" for data, n in sizes)


def _missing_images(summaries: Sequence[RunResult]) -> Iterator[int]:
    return (summary.excluded.n for summary in summaries if summary.excluded)


def _epochs(measured: Sequence[tuple[str, Measures]]) -> str:
    said = {"last": "last epoch", "best": "best epoch by validation accuracy"}
    return _list(said[measures.selected] for _, measures in measured)


def _seeds(cells: Mapping[tuple[str, str, str], Cell], over: str) -> str:
    amounts = sorted({cell.n for cell in cells.values() if cell.n})
    if not amounts:
        return f"no {over} is finished"
    if len(amounts) == 1:
        return f"n = {formatting.plural(amounts[0], over)} a cell"
    return f"n = {amounts[0]} to {amounts[-1]} {over}s a cell, given in each"


def sweep_results(sweep: Sweep, out: Path) -> list[tuple[Mapping[str, str], RunResult | None]]:
    """The labels of every cell with the summary of its finished run, None where there is none."""
    runs = finished_runs(out)
    results: list[tuple[Mapping[str, str], RunResult | None]] = []
    for cell in sweep.cells:
        run = runs.get(recipe_hash(cell.resolved.recipe))
        path = run / "summary.json" if run is not None else None
        results.append(
            (cell.labels, from_dict(RunResult, read_json(path), path) if path is not None else None)
        )
    return results
