"""`kd compare`: what differed between runs, and what came of it. Rendering on a screen is the
command line's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli import formatting
from kdcli.errors import UsageError
from kdcli.report.figures.palette import DASHES, STUDENTS, TEACHERS
from kdcli.report.figures.svg import Figure, canvas, finished, house_style, legend
from kdcli.report.findings.run import overlap_note
from kdcli.report.markdown import escape
from kdcli.report.page.parts import Grid
from kdcli.report.page.summary import grid_markdown
from kdcli.report.tables import metrics
from kdcli.results.intervals import Interval
from kdcli.results.run import RunResult
from kdcli.runs.read import Run

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
    """Accuracy per epoch of all runs on one axis: validation where all have it, training
    otherwise.
    """
    held_out = all(run.epochs and all(epoch.val for epoch in run.epochs) for run in runs)
    what = "validation" if held_out else "training"
    colours = [colour for pair in zip(STUDENTS, TEACHERS, strict=True) for colour in pair]
    with house_style("compare"):
        figure = canvas(5.6, 3.4)
        axes = figure.subplots()
        for number, run in enumerate(runs):
            values = [
                epoch.val.accuracy if held_out and epoch.val else epoch.train_accuracy
                for epoch in run.epochs
            ]
            colour, dash = colours[number % len(colours)], DASHES[number % len(DASHES)]
            axes.plot(
                np.arange(1, len(values) + 1),
                100 * np.array(values),
                linestyle=dash,
                color=colour,
                label=run.name,
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{what} accuracy, %")
        legend(axes, columns=1)
        return finished(
            figure,
            "compare",
            "curves",
            f"{what.capitalize()} accuracy per epoch",
            "One line a run.",
            "Means over an epoch.",
        )
