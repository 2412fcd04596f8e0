"""A sweep as the table of a paper: mean ± sd over seeds, the paper's number and the difference
beside ours.

A cell that was not run is a dot, never a zero. n is always there, and the page says which split,
how many images, which epoch and which command; a number without these is hearsay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcli import formatting
from kdcli.recipe.sweep.cells import PaperValue, Sweep, TableSection
from kdcli.recipe.writing import recipe_hash
from kdcli.report.tables import metrics
from kdcli.results.measures import Measures
from kdcli.results.run import RunResult
from kdcli.results.sweep import SweepTable, TableCell
from kdcli.runs.find import finished_runs
from kdcli.runs.manifest import read_record
from kdcli.typed import from_dict

SOLE_COLUMN = ""  # the label of the only column where no axis makes columns

Result = tuple[Mapping[str, str], RunResult | None]
Place = tuple[str, str, str]  # row, column, metric


@dataclass(frozen=True, slots=True)
class Table:
    """A finished table, as it is shown. corner: what the rows are called. best: places of the cells
    that are marked. images: test images behind each number, the least.
    """

    data: SweepTable
    corner: str
    best: frozenset[Place]
    images: int = 0

    @property
    def cells(self) -> Mapping[Place, TableCell]:
        """By row, column and metric."""
        return {(cell.row, cell.column, cell.metric): cell for cell in self.data.cells}


def tabulate(
    results: Sequence[Result],
    layout: TableSection,
    paper: Sequence[PaperValue] = (),
    *,
    title: str = "",
    command: str = "kd table",
) -> Table:
    """Gathers the runs of a sweep into its table.

    Args:
        results: for each planned run the labels of its axes, and its summary, or None where it has
            none.
        layout: which axes go where. Cells of one row compete to be marked as the best, those of one
            column where rows are methods.
        paper: published numbers; those of settings that were not run are shown beside a dot.
        command: what makes this table again.

    Raises:
        UsageError: a metric is no number of a run, or a term that none of these losses has.
    """
    finished = [summary for _, summary in results if summary]
    for metric in (*layout.metrics, *(published.metric for published in paper)):
        metrics.check_terms(metrics.check(metric), finished)
    placed = [
        ((_label(labels, layout.rows), _label(labels, layout.columns)), summary)
        for labels, summary in results
    ]
    rows = dict.fromkeys([*(row for (row, _), _ in placed), *(entry.row for entry in paper)])
    columns = dict.fromkeys(
        [*(column for (_, column), _ in placed), *(entry.column for entry in paper)]
    )
    published = {(entry.row, entry.column, entry.metric): entry for entry in paper}
    cells = tuple(
        _cell(placed, (row, column, metric), published)
        for row in rows
        for column in columns
        for metric in layout.metrics
    )
    corner = ", ".join(layout.rows)
    summaries = [summary for _, summary in results if summary]
    return Table(
        data=SweepTable(
            title=title,
            rows=tuple(rows),
            columns=tuple(columns),
            metrics=layout.metrics,
            cells=cells,
            notes=tuple(_notes(results, layout, cells, command)),
        ),
        corner=corner,
        best=_best(cells, along="column" if "method" in corner else "row"),
        images=min((summary.test.n for summary in summaries), default=0),
    )


def _label(labels: Mapping[str, str], axes: Sequence[str]) -> str:
    return ", ".join(labels.get(axis, formatting.MISSING) for axis in axes)


def _cell(
    placed: Sequence[tuple[tuple[str, str], RunResult | None]],
    place: Place,
    published: Mapping[Place, PaperValue],
) -> TableCell:
    row, column, metric = place
    found = [metrics.value(summary, metric) for here, summary in placed if here == (row, column)]
    values = tuple(number for number in found if number is not None)
    known = published.get(place)
    return TableCell.of(
        row,
        column,
        metric,
        values,
        missing=len(found) - len(values),
        paper=known.value if known else None,
        source=known.source if known else "",
    )


def _best(cells: Sequence[TableCell], *, along: Literal["row", "column"]) -> frozenset[Place]:
    """The best of each row or column; one that competes with nobody is not."""
    groups: dict[tuple[str, str], list[TableCell]] = {}
    for cell in cells:
        if cell.mean is not None:
            line = cell.row if along == "row" else cell.column
            groups.setdefault((line, cell.metric), []).append(cell)
    best = set()
    for (_, metric), group in groups.items():
        key = metrics.closeness(metric)
        top = max(key(cell.mean) for cell in group if cell.mean is not None)
        best |= {
            (cell.row, cell.column, cell.metric)
            for cell in group
            if len(group) > 1 and cell.mean is not None and key(cell.mean) == top
        }
    return frozenset(best)


# ---- what the page must say ----------------------------------------------------------------------


def _notes(
    results: Sequence[Result],
    layout: TableSection,
    cells: Sequence[TableCell],
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
    over = ", ".join(layout.over) or "seed"
    yield f"Mean ± sample standard deviation over {over}s; {_seeds(cells, over)}."
    missing = sum(summary is None for _, summary in results)
    if missing:
        yield (
            f"{formatting.plural(missing, 'run')} of {len(results)} "
            f"{'has' if missing == 1 else 'have'} no result yet ({formatting.MISSING} where a cell "
            "has none)."
        )
    if sources := sorted({cell.source for cell in cells if cell.source}):
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


def _seeds(cells: Sequence[TableCell], over: str) -> str:
    amounts = sorted({cell.n for cell in cells if cell.n})
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
            (
                cell.labels,
                from_dict(RunResult, read_record(path), path) if path is not None else None,
            )
        )
    return results
