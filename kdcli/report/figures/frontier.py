"""Accuracy against what a network costs, with the frontier: runs that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcli import formatting
from kdcli.report.figures.palette import MUTED, STUDENT, TEACHER
from kdcli.report.figures.svg import INK, SMALL, Figure, canvas, finished, house_style, legend
from kdcli.results.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMES = 8  # of the frontier; more would lie on each other
FAR = 3.0  # a range of costs beyond this factor has a log axis


@dataclass(frozen=True, slots=True)
class Point:
    """One run. cost: above 0; distilled: whether it had a teacher."""

    name: str
    cost: float
    accuracy: float
    interval: Interval
    distilled: bool


def on_frontier(points: Sequence[Point]) -> list[Point]:
    """Those that no other is at least as accurate as at less cost, or more accurate than at no
    more; the cheapest first. Of equals the first by name.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.accuracy, each.name)):
        if not found or point.accuracy > found[-1].accuracy:
            found.append(point)
    return found


def frontier(
    points: Sequence[Point],
    *,
    name: str,
    title: str,
    axis: str,
    basis: str,
    accuracy: str = "test accuracy",
) -> Figure:
    """Accuracy over cost; the frontier is a line of steps, and its runs are named."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    best = on_frontier(points)
    with house_style(name):
        figure = canvas(5.6, 3.6)
        axes = figure.subplots()
        for distilled, colour, marker, label in (
            (False, TEACHER, "o", "trained on labels"),
            (True, STUDENT, "s", "distilled"),
        ):
            _scatter(
                axes,
                [each for each in points if each.distilled == distilled],
                colour,
                marker,
                label,
            )
        edge = max(each.cost for each in points)
        axes.plot(
            [*(each.cost for each in best), edge],
            [100 * each.accuracy for each in (*best, best[-1])],
            drawstyle="steps-post",
            color=MUTED,
            linewidth=1.4,
            label="frontier",
            zorder=1,
        )
        _name(axes, best)
        costs = [each.cost for each in points]
        if max(costs) / min(costs) > FAR:
            axes.set_xscale("log")
            # decades; between them too where there are few
            few = max(costs) / min(costs) < 100
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=9))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _said(value)))
        axes.margins(x=0.18, y=0.15)
        axes.set_xlabel(axis)
        axes.set_ylabel(f"{accuracy}, %")
        legend(axes, columns=3)
        names = formatting.listed([each.name for each in best], 4)
        caption = f"On the frontier: {names}. Up and to the left is better."
        return finished(figure, name, "folder", title, caption, basis)


def _said(value: float) -> str:
    return formatting.count(round(value)) if value >= 1000 else f"{value:.3g}"


def _scatter(axes: Axes, points: Sequence[Point], colour: str, marker: str, label: str) -> None:
    if not points:
        return
    costs, levels = [each.cost for each in points], [100 * each.accuracy for each in points]
    axes.vlines(
        costs,
        [100 * each.interval.low for each in points],
        [100 * each.interval.high for each in points],
        colors=colour,
        linewidth=3,
        alpha=0.3,
    )
    axes.plot(costs, levels, marker, color=colour, markersize=6, label=label)


def _name(axes: Axes, best: Sequence[Point]) -> None:
    for point in best[-MOST_NAMES:]:
        axes.annotate(
            formatting.short(point.name, 24),
            (point.cost, 100 * point.accuracy),
            (4, 5),
            textcoords="offset points",
            fontsize=SMALL,
            color=INK,
        )
