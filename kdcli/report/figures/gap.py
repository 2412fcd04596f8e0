"""The figures of the gap between a student and its teacher. They take a GapReport: of a run, or of
`kd analyze-gap`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdcli import formatting, tasks
from kdcli.report.figures.palette import ALIGNED_HATCH, Look, Palette
from kdcli.report.figures.svg import INK, Figure, canvas, finished, house_style
from kdcli.report.findings.gap import first_raw_pair, ranked_classes, usual_temperature
from kdcli.results.gap import GapReport, PairReport, Response
from kdcli.results.intervals import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED_CLASSES = 24  # above this the bars of single classes carry no names
PROFILE_POINTS = 3  # a curve over fewer temperatures says nothing that bars do not


def figures_of_gap(gap: GapReport, palette: Palette) -> Iterator[Figure]:
    """The figures of one report, in order: levels, then per class."""
    if gap.students:
        yield levels(gap, palette)
    if (pair := first_raw_pair(gap)) and ranked_classes(gap, usual_temperature(pair)):
        yield per_class(gap, pair, palette)


def images(gap: GapReport) -> str:
    """The basis of a report's numbers: n = 360 test images of digits."""
    sample = tasks.of_data(gap.data).sample
    return f"n = {formatting.plural(gap.n, f'{gap.split} {sample}')} of {gap.measured_on}"


# ---- levels --------------------------------------------------------------------------------------


class Series(NamedTuple):
    """One network in one form."""

    label: str
    look: Look
    response: Response


def series_of(gap: GapReport, palette: Palette) -> list[Series]:
    """The teacher, its students, and students in the form that their loss sees."""
    teacher = palette.teacher(gap.teacher.label)
    found = [Series(teacher.called, teacher, gap.teacher)]
    for response in gap.students:
        look = palette.student(response.label)
        found.append(
            Series(
                look.called + (", aligned" if response.form == "aligned" else ""), look, response
            )
        )
    return found


def _bars(axes: Axes, series: list[Series], quantity: str) -> None:
    """Groups of bars by temperature, one bar a network, with bootstrap intervals."""
    width = 0.8 / len(series)
    for number, (label, look, response) in enumerate(series):
        estimates: list[Estimate] = [getattr(at, quantity) for at in response.at]
        position = np.arange(len(estimates)) + (number - (len(series) - 1) / 2) * width
        values = np.array([estimate.value for estimate in estimates])
        reach = np.array([[max(e.value - e.low, 0), max(e.high - e.value, 0)] for e in estimates]).T
        drawn = {"facecolor": look.colour, "edgecolor": look.colour}
        if response.form == "aligned":
            drawn = {"facecolor": "none", "edgecolor": look.colour, "hatch": ALIGNED_HATCH}
        axes.bar(position, values, width=0.88 * width, linewidth=0.8, label=label, **drawn)  # type: ignore[arg-type]
        axes.errorbar(position, values, yerr=reach, fmt="none", ecolor=INK, elinewidth=1.1)
    axes.set_xticks(
        range(len(series[0].response.at)),
        [f"τ = {formatting.temperature(at.temperature)}" for at in series[0].response.at],
    )
    axes.grid(visible=False, axis="x")


def levels(gap: GapReport, palette: Palette) -> Figure:
    """Mean entropy and free energy of teacher and student at each temperature."""
    series = series_of(gap, palette)
    with house_style("gap-levels"):
        figure = canvas(5.0, 2.9 + 0.2 * ((len(series) - 1) // 3))
        entropy, energy = figure.subplots(1, 2)
        _bars(entropy, series, "entropy")
        _bars(energy, series, "free_energy")
        entropy.set_title("entropy, nats")
        energy.set_title("free energy")
        handles, labels = entropy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
        striped = (
            "; striped is the student as its method's loss sees it"
            if any(s.form == "aligned" for s in gap.students)
            else ""
        )
        caption = (
            f"Bars of equal height at one τ are networks equally sure of their answers{striped}."
        )
        basis = (
            f"{images(gap)}; thin lines are 95 % bootstrap intervals; F = τ log Σ exp(x/τ) of "
            "centred logits."
        )
        return finished(figure, "gap-levels", "gap", _certainty_title(gap), caption, basis)


def _certainty_title(gap: GapReport) -> str:
    pair = first_raw_pair(gap)
    if pair is None or len({student.label for student in gap.students}) > 1:
        return "How sure the teacher and its students are"
    at = usual_temperature(pair)
    said = (
        f"{formatting.signed(at.entropy.value)} nats at τ = "
        f"{formatting.temperature(at.temperature)}"
    )
    if at.entropy.low <= 0 <= at.entropy.high:
        return f"The student is as sure as its teacher, as far as these samples can tell: {said}"
    return (
        f"The student is {'less sure' if at.entropy.value > 0 else 'surer'} than its teacher: "
        f"{said}"
    )


# ---- by class ------------------------------------------------------------------------------------


def per_class(gap: GapReport, pair: PairReport, palette: Palette) -> Figure:
    """The entropy gap by class, sorted: where the student is least like its teacher."""
    at = usual_temperature(pair)
    ranked = ranked_classes(gap, at)[::-1]
    names, values = [name for name, _ in ranked], np.array([value for _, value in ranked])
    few = len(values) <= NAMED_CLASSES
    student, teacher = (
        palette.student(pair.student).colour,
        palette.teacher(gap.teacher.label).colour,
    )
    with house_style("gap-classes"):
        figure = canvas(5.0, 0.9 + 0.22 * len(values) if few else 2.8)
        axes = figure.subplots()
        if few:
            axes.barh(
                range(len(values)),
                values,
                color=[student if value >= 0 else teacher for value in values],
                height=0.72,
            )
            axes.set_yticks(range(len(values)), [formatting.short(name) for name in names])
            axes.axvline(0, color=INK, linewidth=0.6)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel("S(student) − S(teacher), nats")
        else:
            edges = np.arange(len(values) + 1)
            axes.stairs(np.maximum(values, 0), edges, fill=True, color=student)
            axes.stairs(np.minimum(values, 0), edges, fill=True, color=teacher)
            axes.axhline(0, color=INK, linewidth=0.6)
            axes.set_xlabel(f"{len(values)} classes, sorted")
            axes.set_ylabel("S(student) − S(teacher), nats")
        directions = "to the right" if few else "above the line"
        caption = (
            f"Bars {directions} are classes of which the student is less sure than its teacher, "
            "the others of which it is surer."
        )
        basis = (
            f"{images(gap)}; raw logits at τ = {formatting.temperature(at.temperature)}; "
            "means over "
            "the samples of a class, without intervals."
        )
        return finished(figure, "gap-classes", "gap", _class_title(gap, pair), caption, basis)


def _class_title(gap: GapReport, pair: PairReport) -> str:
    several = len({other.student for other in gap.pairs}) > 1
    ranked = ranked_classes(gap, usual_temperature(pair))
    if not ranked:
        return "Entropy gap by class"
    name, value = ranked[0]
    return (
        f"The gap{f' of {pair.student}' if several else ''} is largest on class {name}: "
        f"{formatting.signed(value)} nats"
    )


def largest_classes(gap: GapReport, pair: PairReport, amount: int = 3) -> str:
    """The classes with the largest entropy gap, in words."""
    ranked = ranked_classes(gap, usual_temperature(pair))
    return ", ".join(f"{name} ({formatting.signed(value)})" for name, value in ranked[:amount])
