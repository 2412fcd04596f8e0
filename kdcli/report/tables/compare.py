"""`kd compare`: what differed between runs, and what came of it. Rendering on a screen is the
command line's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcli import formatting
from kdcli.errors import UsageError
from kdcli.report.figures.palette import DASHES, STUDENTS, TEACHERS
from kdcli.report.figures.svg import INK, Figure, canvas, finished, house_style, legend
from kdcli.report.findings.dynamics import course, images
from kdcli.report.findings.run import overlap_note
from kdcli.report.markdown import escape
from kdcli.report.page.parts import Grid
from kdcli.report.page.summary import grid_markdown
from kdcli.report.tables import metrics
from kdcli.results.intervals import Interval
from kdcli.results.run import RunResult
from kdcli.runs.read import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = NDArray[np.float64]

METRICS = (
    "test.accuracy",
    "test.top5",
    "test.balanced_accuracy",
    "test.macro_f1",
    "excluded.accuracy",
    "test.nll",
    "test.ece",
    "agreement",
    "test.entropy",
    "gap.entropy",
    "gap.free_energy",
    "parameters",
    "cost.macs",
    "cost.latency_1_ms",
    "cost.latency_32_ms",
    "wall_seconds",
    "images_per_second",
)
_NOT_A_DIFFERENCE = ("name",)  # a run's name is its own


@dataclass(frozen=True, slots=True)
class Difference:
    """A recipe key that is not the same in all runs; None in a run that does not have it."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of each run; None in a run that does not have it. intervals: 95 %, for
    accuracy.
    """

    path: str
    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side. Tuples run parallel to `runs`. n: test images; notes: what to beware of
    when reading.
    """

    runs: tuple[str, ...]
    n: tuple[int | None, ...]
    differences: tuple[Difference, ...]
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = ()


def compare(runs: Sequence[Run]) -> Comparison:
    """Sets runs side by side: keys of their recipes that differ, then their numbers.

    Raises:
        UsageError: there are fewer than two.
    """
    if len(runs) < 2:
        raise UsageError("compare needs two runs or more", hint="kd compare RUN RUN")
    return Comparison(
        runs=tuple(run.name for run in runs),
        n=tuple(run.summary.test.n if run.summary else None for run in runs),
        differences=tuple(_differences([run.recipe for run in runs])),
        metrics=tuple(
            metric
            for metric in (_metric(path, runs) for path in METRICS)
            if any(value is not None for value in metric.values)
        ),
        notes=tuple(_notes(runs)),
    )


def _differences(recipes: Sequence[Mapping[str, Any]]) -> Iterator[Difference]:
    flat = [dict(_flat(recipe)) for recipe in recipes]
    for key in dict.fromkeys(key for one in flat for key in one if key not in _NOT_A_DIFFERENCE):
        values = tuple(one.get(key) for one in flat)
        if any(value != values[0] for value in values):
            yield Difference(key, values)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; one teacher is `teacher.x`, several are `teacher.1.x`,
    `teacher.2.x`.
    """
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = (
            value[0]
            if len(value) == 1
            else {str(number): item for number, item in enumerate(value, 1)}
        )
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, item in value.items():
        yield from _flat(item, f"{prefix}.{key}" if prefix else key)


def _metric(path: str, runs: Sequence[Run]) -> Metric:
    values = tuple(metrics.value(run.summary, path) for run in runs)
    known = path == "test.accuracy"
    return Metric(
        path,
        values,
        tuple(
            run.summary.test.accuracy_interval if known and run.summary else None for run in runs
        ),
    )


def _notes(runs: Sequence[Run]) -> Iterator[str]:
    yield from (f"{run.name} is not finished." for run in runs if run.summary is None)
    finished = [run.summary for run in runs if run.summary]
    bases = {_basis(summary) for summary in finished}
    if len(bases) > 1:
        yield "These runs were not measured alike: " + "; ".join(sorted(bases)) + "."
    elif len(finished) == 2:
        note = overlap_note(finished[0].test, finished[1].test)
        yield f"Accuracy: {note}."
    elif bases:
        yield f"All measured on {bases.pop()}."


def _basis(summary: RunResult) -> str:
    return (
        f"{summary.test.split} split of {summary.data}, n = "
        f"{formatting.thousands(summary.test.n)}, "
        f"{summary.test.selected} epoch"
    )


# ---- showing -------------------------------------------------------------------------------------


def grids(comparison: Comparison) -> tuple[Grid, ...]:
    """The comparison as two tables of text: recipe, then numbers. The first is left out where
    recipes are the same.
    """
    recipe = tuple(
        (item.key, *(formatting.MISSING if value is None else str(value) for value in item.values))
        for item in comparison.differences
    )
    tables = [Grid(("recipe", *comparison.runs), recipe)] if recipe else []
    return (
        *tables,
        Grid(
            ("result", *comparison.runs),
            tuple(_result_rows(comparison)),
            " ".join(comparison.notes),
        ),
    )


def _result_rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for metric in comparison.metrics:
        yield (
            metrics.label(metric.path),
            *(
                _shown(metric.path, value, n)
                for value, n in zip(metric.values, comparison.n, strict=True)
            ),
        )
        if any(metric.intervals):
            yield (
                "95 % interval, %",
                *(
                    _interval(interval, n)
                    for interval, n in zip(metric.intervals, comparison.n, strict=True)
                ),
            )
    yield "n", *(formatting.MISSING if n is None else formatting.thousands(n) for n in comparison.n)


def _shown(path: str, value: float | None, n: int | None) -> str:
    if value is None:
        return formatting.MISSING
    if path in {"parameters", "cost.macs"}:
        return formatting.count(round(value))
    if path.startswith("gap."):
        return formatting.signed(value)
    return formatting.number(metrics.scaled(value, path), metrics.digits(path, n or 0))


def _interval(interval: Interval | None, n: int | None) -> str:
    return formatting.percent_range(interval, n or 0) if interval else formatting.MISSING


def to_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    title = "# " + escape(" against ".join(comparison.runs))
    same = [] if comparison.differences else ["The recipes are the same."]
    return "\n\n".join([title, *same, *(grid_markdown(grid) for grid in grids(comparison))]) + "\n"


def overlay(runs: Sequence[Run]) -> Figure:
    """Accuracy per epoch of all runs on one axis: validation where all have it, training otherwise;
    below it both gaps to the teacher, where all runs probed them: raw, at temperature 1.
    """
    held_out = all(run.epochs and all(epoch.val for epoch in run.epochs) for run in runs)
    what = "validation" if held_out else "training"
    curves = {f"{what} accuracy, %": [_accuracies(run, held_out=held_out) for run in runs]}
    gaps = {
        label: [_gaps(run, quantity) for run in runs]
        for quantity, label in (
            ("entropy", "entropy gap, nats"),
            ("free_energy", "free-energy gap"),
        )
    }
    probed = all(len(x) for each in gaps.values() for x, _ in each)
    with house_style("compare"):
        drawn = curves | gaps if probed else curves
        figure = canvas(5.6, 3.4 + 2.0 * (len(drawn) - 1))
        panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, each) in zip(panels, drawn.items(), strict=True):
            _overlaid(axes, runs, each)
            axes.set_ylabel(label)
        for axes in panels[1:]:
            axes.axhline(0, color=INK, linewidth=0.6)
        panels[-1].set_xlabel("epoch")
        legend(panels[0], columns=1)
        return finished(
            figure,
            "compare",
            "curves",
            f"{what.capitalize()} accuracy per epoch{', and both gaps' if probed else ''}",
            "One line a run."
            + (" Below zero a student is surer than its teacher." if probed else ""),
            f"Accuracy: means over an epoch.{_probed(runs) if probed else ''}",
        )


def _overlaid(axes: Axes, runs: Sequence[Run], curves: Sequence[tuple[Curve, Curve]]) -> None:
    colours = [colour for pair in zip(STUDENTS, TEACHERS, strict=True) for colour in pair]
    for number, (run, (x, y)) in enumerate(zip(runs, curves, strict=True)):
        dash = DASHES[number % len(DASHES)]
        axes.plot(x, y, linestyle=dash, color=colours[number % len(colours)], label=run.name)


def _accuracies(run: Run, *, held_out: bool) -> tuple[Curve, Curve]:
    """Epochs and accuracies, %."""
    values = [
        epoch.val.accuracy if held_out and epoch.val else epoch.train_accuracy
        for epoch in run.epochs
    ]
    return np.arange(1.0, len(values) + 1), 100 * np.array(values, float)


def _gaps(run: Run, quantity: str) -> tuple[Curve, Curve]:
    """Epochs and raw gaps at temperature 1; none where no gap was probed."""
    found = [
        (float(moment.epochs), float(getattr(gap, quantity)))
        for moment in course(run)
        for gap in moment.probe.gaps
        if (gap.temperature, gap.aligned) == (1.0, False)
    ]
    x, y = zip(*found, strict=True) if found else ((), ())
    return np.array(x), np.array(y)


def _probed(runs: Sequence[Run]) -> str:
    return f" Gaps: at temperature 1, {images(course(runs[0])[-1].probe)}."
