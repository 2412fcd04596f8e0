"""A sweep as lines: the numbers of its table over what varies, with intervals over seeds, and the
paper's beside them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcli import formatting
from kdcli.errors import UsageError
from kdcli.report.figures.palette import DASHES, MARKERS, STUDENTS, TEACHERS
from kdcli.report.figures.svg import Figure, canvas, finished, house_style, legend
from kdcli.report.tables import metrics
from kdcli.report.tables.standing_out import reach
from kdcli.results import metric_paths
from kdcli.results.sweep import SweepTable, TableCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 8  # with a colour each; more are drawn thin, in the colour of the first part of a name
FAR = 20.0  # a range of numbers beyond this factor has a log axis
PANEL = (5.6, 3.2)  # inches

# the cells of a figure: by panel, by line, by place along x
Drawn = Mapping[str, Mapping[str, Mapping[str, TableCell]]]


@dataclass(frozen=True, slots=True)
class _Grid:
    """What goes where. along: what x is called; ticks: places along x, in order."""

    along: str
    ticks: tuple[str, ...]
    cells: Drawn

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """The places as numbers, if that is what all of them are."""
        return _numbers(self.ticks)


def sweep(table: SweepTable, rows: str, columns: str) -> Figure:
    """One panel for each number of a table.

    x is the columns if they are numbers, the rows if they are, the temperatures if one number is
    there at several (what is there at none or one is not drawn then), else the columns in their
    order, or the rows of a table that has only one column. What is left makes the lines. A band is
    the 95 % interval of a mean over seeds, by Student's t; a hollow marker is a published number.

    Args:
        rows, columns: what they are called.

    Raises:
        UsageError: no cell has a number.
    """
    if not any(cell.mean is not None for cell in table.cells):
        raise UsageError("nothing to draw: no run of this sweep is finished", hint="kd sweep")
    grid = _arranged(table, rows, columns)
    names = list(dict.fromkeys(line for lines in grid.cells.values() for line in lines))
    looks = _looks(names)
    with house_style("sweep"):
        figure = canvas(PANEL[0], PANEL[1] * len(grid.cells))
        panels = figure.subplots(len(grid.cells), 1, squeeze=False)[:, 0]
        for axes, (metric, lines) in zip(panels, grid.cells.items(), strict=True):
            for name, cells in lines.items():
                _line(axes, grid, metric, cells, looks[name])
            _scale(axes, grid)
            axes.set_ylabel(metrics.label(metric))
        legend(panels[0], columns=2)
        panels[-1].set_xlabel(grid.along)
        return finished(
            figure, "sweep", "sweep", table.title, _caption(table, names), _basis(table)
        )


# ---- what goes where -----------------------------------------------------------------------------


def _arranged(table: SweepTable, rows: str, columns: str) -> _Grid:
    by_base = Counter(metric_paths.split(metric)[0] for metric in table.metrics)
    if max(by_base.values()) > 1:
        found = _cells(table, _softened)
        drawn = {base: lines for base, lines in found.items() if by_base[base] > 1}
        ticks = {tick for lines in drawn.values() for places in lines.values() for tick in places}
        return _Grid("temperature", tuple(sorted(ticks, key=float)), drawn)
    across = len(table.columns) > 1 and (
        _numbers(table.columns) is not None or _numbers(table.rows) is None
    )
    if across:
        found = _cells(table, lambda cell: (cell.metric, cell.row, cell.column))
        return _Grid(columns, table.columns, found)
    found = _cells(table, lambda cell: (cell.metric, cell.column, cell.row))
    return _Grid(rows, table.rows, found)


def _cells(table: SweepTable, where: Callable[[TableCell], tuple[str, str, str]]) -> Drawn:
    """The cells that have a number, by panel, line and place, which `where` tells."""
    found: dict[str, dict[str, dict[str, TableCell]]] = {}
    for cell in table.cells:
        if cell.mean is not None or cell.paper is not None:
            panel, line, place = where(cell)
            found.setdefault(panel, {}).setdefault(line, {})[place] = cell
    return found


def _softened(cell: TableCell) -> tuple[str, str, str]:
    """Of a number at a temperature: the number, row and column, and the temperature."""
    line = ", ".join(part for part in (cell.row, cell.column) if part)
    return metric_paths.split(cell.metric)[0], line, _temperature(cell.metric)


def _temperature(metric: str) -> str:
    return formatting.temperature(metric_paths.split(metric)[1] or 1.0)


def _numbers(labels: Sequence[str]) -> tuple[float, ...] | None:
    try:
        found = tuple(float(label) for label in labels)
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None


# ---- drawing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Look:
    """The look of a line. label: None where another line of its colour has the name."""

    label: str | None
    colour: str
    marker: str
    dash: object
    thin: bool


def _looks(names: Sequence[str]) -> dict[str, _Look]:
    colours = [colour for pair in zip(STUDENTS, TEACHERS, strict=True) for colour in pair]
    thin = len(names) > MOST_LINES
    called = [name.partition(", ")[0] if thin else name for name in names]
    kinds = list(dict.fromkeys(called))
    looks, seen = {}, set[str]()
    for name, kind in zip(names, called, strict=True):
        place = kinds.index(kind)
        looks[name] = _Look(
            formatting.short(kind, 40) if kind and kind not in seen else None,
            colours[place % len(colours)],
            MARKERS[place % len(MARKERS)],
            DASHES[place % len(DASHES)],
            thin,
        )
        seen.add(kind)
    return looks


def _line(
    axes: Axes, grid: _Grid, metric: str, cells: Mapping[str, TableCell], look: _Look
) -> None:
    numbers = grid.numbers or tuple(map(float, range(len(grid.ticks))))
    at = dict(zip(grid.ticks, numbers, strict=True))
    placed = sorted(((at[tick], cell) for tick, cell in cells.items()), key=lambda each: each[0])
    ours = [each for each in placed if each[1].mean is not None]
    theirs = [each for each in placed if each[1].paper is not None]
    width = 0.9 if look.thin else 1.8
    x = [place for place, _ in ours]
    means = [metrics.scaled(cell.mean or 0.0, metric) for _, cell in ours]
    halves = [metrics.scaled(_reach(cell), metric) for _, cell in ours]
    if any(halves) and not look.thin:
        low, high = (
            [mean + sign * each for mean, each in zip(means, halves, strict=True)]
            for sign in (-1, 1)
        )
        axes.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
    axes.plot(
        x,
        means,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markersize=3.5 if look.thin else 5,
        linewidth=width,
        label=look.label,
    )
    if theirs:
        axes.plot(
            [place for place, _ in theirs],
            [metrics.scaled(cell.paper or 0.0, metric) for _, cell in theirs],
            color=look.colour,
            linestyle="none",
            marker=look.marker,
            markerfacecolor="none",
            markersize=4 if look.thin else 6,
            alpha=0.8,
            label=look.label and f"{look.label}, paper",
        )


def _scale(axes: Axes, grid: _Grid) -> None:
    """Ticks at the places that were measured."""
    from matplotlib.ticker import NullLocator

    numbers = grid.numbers
    if numbers is None:
        axes.set_xticks(range(len(grid.ticks)), [formatting.short(each, 18) for each in grid.ticks])
        return
    if min(numbers) > 0 and max(numbers) / min(numbers) > FAR:
        axes.set_xscale("log")
    axes.set_xticks(numbers, grid.ticks)
    axes.xaxis.set_minor_locator(NullLocator())


def _reach(cell: TableCell) -> float:
    """Half of the 95 % interval of a cell's mean, 0 for a single value."""
    return 0.0 if cell.sd is None else reach(cell.sd / math.sqrt(cell.n), cell.n - 1)


def _caption(table: SweepTable, names: Sequence[str]) -> str:
    published = any(cell.paper is not None for cell in table.cells)
    said = ["One line for each " + ("row" if len(names) > 1 else "number") + " of the table."]
    if published:
        said.append("Hollow markers are published numbers.")
    return " ".join(said)


def _basis(table: SweepTable) -> str:
    most = max(cell.n for cell in table.cells)
    band = "bands: 95 % of the mean over them, by Student's t" if most > 1 else "no bands"
    return f"n = {formatting.plural(most, 'seed')} a point at most; {band}."
