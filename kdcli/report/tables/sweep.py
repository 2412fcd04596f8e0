"""A sweep as the table of a paper: mean ± sd over seeds, the paper's number and the difference
beside ours.

A cell that was not run is a dot, never a zero. n is always there, and the page says which split,
how many images, which epoch and which command; a number without these is hearsay.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdcli import formatting, tasks
from kdcli.errors import CorruptFile, KdError
from kdcli.recipe.sweep.cells import PaperValue, Sweep, TableSection
from kdcli.recipe.writing import recipe_hash
from kdcli.report.tables import metrics, standing_out
from kdcli.report.tables.standing_out import Values
from kdcli.results.measures import Measures
from kdcli.results.run import RightAnswers, RunResult
from kdcli.results.sweep import CellComparison, SweepTable, TableCell
from kdcli.runs.find import finished_runs
from kdcli.runs.folder import ANALYSIS_FILE
from kdcli.runs.manifest import read_record
from kdcli.typed import from_dict

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACCURACY = "test.accuracy"  # the metric that is tested over images too
OF_TEACHERS = ("teacher.", "reference.")  # no method of a student makes these better
SOLE_COLUMN = ""  # the label of the only column where no axis makes columns

Result = tuple[Mapping[str, str], RunResult | None]
Place = tuple[str, str, str]  # row, column, metric


@dataclass(frozen=True, slots=True)
class Table:
    """A finished table, as it is shown. corner: what the rows are called. best: places of the cells
    that stand out of their line, which are marked. images: test images behind each number, the
    least. compared: whether the comparisons are shown too.
    """

    data: SweepTable
    corner: str
    best: frozenset[Place]
    images: int = 0
    compared: bool = False

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
    right: Sequence[RightAnswers | None] = (),
) -> Table:
    """Gathers the runs of a sweep into its table.

    Args:
        results: for each planned run the labels of its axes, and its summary, or None where it has
            none.
        layout: which axes go where. Cells of one row compete to be marked, those of one column
            where rows are methods or there is but one column: the best one is, if it is better
            than each of the others by more than chance (`standing_out`).
        paper: published numbers; those of settings that were not run are shown beside a dot.
        command: what makes this table again.
        right: for each of the results, which test images were answered rightly, where that is
            known.

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
    down = "method" in corner or list(columns) == [SOLE_COLUMN]
    along: Literal["row", "column"] = "column" if down else "row"
    values = _values(placed, [labels for labels, _ in results], layout, right)
    comparisons = tuple(
        comparison
        for metric in layout.metrics
        if not metric.startswith(OF_TEACHERS)
        for comparison in standing_out.compare(_lines(values[metric], along), metric)
    )
    return Table(
        data=SweepTable(
            title=title,
            rows=tuple(rows),
            columns=tuple(columns),
            metrics=layout.metrics,
            cells=cells,
            notes=tuple(_notes(results, layout, cells, comparisons, along, command)),
            comparisons=comparisons,
        ),
        corner=corner,
        best=_best(comparisons),
        images=min((summary.test.n for summary in finished), default=0),
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


# ---- what stands out -----------------------------------------------------------------------------


def _values(
    placed: Sequence[tuple[tuple[str, str], RunResult | None]],
    labels: Sequence[Mapping[str, str]],
    layout: TableSection,
    right: Sequence[RightAnswers | None],
) -> dict[str, list[Values]]:
    """By metric, what each cell that has a number is a mean of."""
    answered = {place: _mask(item) for place, item in enumerate(right) if item is not None}
    found: dict[str, list[Values]] = {}
    for metric in layout.metrics:
        cells: dict[tuple[str, str], Values] = {}
        for place, ((here, summary), named) in enumerate(zip(placed, labels, strict=True)):
            number = metrics.value(summary, metric)
            if number is None:
                continue
            cell = cells.setdefault(here, Values(*here, {}, {}))
            seed = tuple(named.get(axis, "") for axis in layout.over or ("seed",))
            # its own, until it is given away
            cell.merits[seed] = metrics.closeness(metric)(number)  # type: ignore[index]
            if metric == ACCURACY and place in answered:
                cell.right[seed] = answered[place]  # type: ignore[index]
        found[metric] = list(cells.values())
    return found


def _mask(right: RightAnswers) -> tuple[str, NDArray]:  # type: ignore[type-arg]
    """What marks the images, and which were answered rightly, [n] bool."""
    import numpy as np

    packed = np.frombuffer(base64.b64decode(right.bits), np.uint8)
    return right.labels_sha256, np.unpackbits(packed, count=right.n).astype(bool)


def _lines(cells: Sequence[Values], along: Literal["row", "column"]) -> list[list[Values]]:
    """The cells that compete, the best first."""
    lines: dict[str, list[Values]] = {}
    for cell in cells:
        lines.setdefault(cell.row if along == "row" else cell.column, []).append(cell)
    return [sorted(line, key=lambda cell: cell.mean, reverse=True) for line in lines.values()]


def _best(comparisons: Sequence[CellComparison]) -> frozenset[Place]:
    """The cells that are better than each of the others of their line; one that competes with
    nobody is not.
    """
    lost = {(each.row, each.column, each.metric) for each in comparisons if not each.stands_out}
    return frozenset((each.row, each.column, each.metric) for each in comparisons) - lost


# ---- what the page must say ----------------------------------------------------------------------


def _notes(
    results: Sequence[Result],
    layout: TableSection,
    cells: Sequence[TableCell],
    comparisons: Sequence[CellComparison],
    along: Literal["row", "column"],
    command: str,
) -> Iterator[str]:
    summaries = [summary for _, summary in results if summary]
    held_out = [metric.startswith("val.") for metric in layout.metrics]
    tested = [(summary.data, summary.test) for summary in summaries if not all(held_out)]
    held = [(summary.data, summary.val) for summary in summaries if summary.val and any(held_out)]
    sample = tasks.of_data(summaries[0].data).sample if summaries else "image"
    for measured, where in (
        (tested, "on the test split"),
        (held, f"on {sample}s held out of the training set"),
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
    if comparisons:
        yield _standing_out(comparisons, along, over, f"{sample}s")
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


def _standing_out(
    comparisons: Sequence[CellComparison],
    along: Literal["row", "column"],
    over: str,
    samples: str,
) -> str:
    """What bold means here, or why nothing is."""
    tested = [each for each in comparisons if each.p_value is not None]
    if not tested:
        return f"Nothing is bold: what one {over} shows cannot be told from chance."
    kinds = {
        f"{over}s": any(each.p_seeds is not None for each in tested),
        samples: any(each.p_images is not None for each in tested),
    }
    by = " and over ".join(name for name, used in kinds.items() if used)
    most = max(
        sum(each.metric == metric for each in comparisons)
        for metric in {e.metric for e in comparisons}
    )
    said = (
        f"better than every other of its {along} by t-tests over {by}, 5 % in all for "
        f"{formatting.plural(most, 'comparison')} a metric (Holm)"
    )
    return f"Bold: {said}." if _best(comparisons) else f"Nothing is bold: no cell is {said}."


def _list(values: Iterator[str]) -> str:
    return " and ".join(dict.fromkeys(values))


def _images(measured: Sequence[tuple[str, Measures]]) -> str:
    sizes = dict.fromkeys((data, measures.n) for data, measures in measured)
    return "n = " + ", ".join(
        f"{formatting.thousands(n)} {tasks.of_data(data).sample}s ({data})" for data, n in sizes
    )


def _missing_images(summaries: Sequence[RunResult]) -> Iterator[int]:
    return (summary.excluded.n for summary in summaries if summary.excluded)


def _epochs(measured: Sequence[tuple[str, Measures]]) -> str:
    return _list(
        "last epoch"
        if measures.selected == "last"
        else f"best epoch by validation {tasks.of_data(data).headline.name}"
        for data, measures in measured
    )


def _seeds(cells: Sequence[TableCell], over: str) -> str:
    amounts = sorted({cell.n for cell in cells if cell.n})
    if not amounts:
        return f"no {over} is finished"
    if len(amounts) == 1:
        return f"n = {formatting.plural(amounts[0], over)} a cell"
    return f"n = {amounts[0]} to {amounts[-1]} {over}s a cell, given in each"


@dataclass(frozen=True, slots=True)
class Finished:
    """What is known of the cells of a sweep, in their order: labels and summaries, and which test
    images each run gets right; None where there is no run, or it keeps no such record. damage: a
    sentence for each record that is not what was written.
    """

    results: tuple[Result, ...]
    right: tuple[RightAnswers | None, ...]
    damage: tuple[str, ...] = ()


def sweep_results(sweep: Sweep, out: Path) -> Finished:
    """What the finished runs under a folder say of a sweep's cells."""
    runs = finished_runs(out)
    results: list[Result] = []
    right: list[RightAnswers | None] = []
    damage: dict[str, None] = {}
    by_images = ACCURACY in sweep.table.metrics
    for cell in sweep.cells:
        run = runs.get(recipe_hash(cell.resolved.recipe))
        path = run / "summary.json" if run is not None else None
        summary = from_dict(RunResult, read_record(path), path) if path is not None else None
        results.append((cell.labels, summary))
        try:
            right.append(_right(run / ANALYSIS_FILE) if run is not None and by_images else None)
        except KdError as error:  # the table does without that run's part in the test
            right.append(None)
            damage[error.message] = None
    return Finished(tuple(results), tuple(right), tuple(damage))


def _right(path: Path) -> RightAnswers | None:
    """What a run keeps of it; None in runs of versions that kept none.

    Raises:
        CorruptFile: it is not what was written.
    """
    kept = read_record(path).get("right") if path.is_file() else None
    if kept is None:
        return None
    found = from_dict(RightAnswers, kept, path)
    try:
        bits = 8 * len(base64.b64decode(found.bits, validate=True))
    except ValueError:
        bits = -1
    if not 0 <= found.n <= bits:
        raise CorruptFile(f"{path} is damaged: its right answers are not those of {found.n} images")
    return found
