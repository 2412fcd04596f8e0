"""The figures of the gap between a student and its teacher. They take a GapReport, so `kd analyze-gap` draws with them too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kdcli.report import words
from kdcli.report.pictures import Picture, picture
from kdcli.report.svg import ALIGNED, INK, MUTED, STUDENT, TEACHER, TERMS, canvas, house_style, legend
from kdcli.results import Estimate, GapReport, PairAt, PairReport, Response

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED_CLASSES = 24  # above this the bars of single classes carry no names
PROFILE_POINTS = 3  # a curve over fewer temperatures says nothing that bars do not


def draw(gap: GapReport) -> Iterator[Picture]:
    """The figures of one report, in order: levels, per class, and the profile where there are enough temperatures."""
    if gap.students:
        yield levels(gap)
    if pair := first_raw_pair(gap):
        yield per_class(gap, pair)
    if len(gap.temperatures) >= PROFILE_POINTS:
        yield response_profile(gap)


def first_raw_pair(gap: GapReport) -> PairReport | None:
    """The first student's comparison on its raw logits."""
    return next((pair for pair in gap.pairs if pair.form == "raw" and pair.at), None)


def series_of(gap: GapReport) -> list[tuple[str, str, Response]]:
    """Label, colour and response of each network: teacher, students, and students in the form that their loss sees."""
    named = [("teacher", TEACHER, gap.teacher)]
    several = len({response.label for response in gap.students}) > 1
    for number, response in enumerate(gap.students):
        label = response.label if several else "student"
        colour = TERMS[(2 + number) % len(TERMS)] if several else STUDENT
        aligned = response.form == "aligned"
        named.append((f"{label}, aligned" if aligned else label, ALIGNED if aligned and not several else colour, response))
    return named


def _bars(axes: Axes, named: list[tuple[str, str, Response]], quantity: str) -> None:
    """Groups of bars by temperature, one bar a network, with bootstrap intervals."""
    width = 0.8 / len(named)
    for number, (label, colour, response) in enumerate(named):
        estimates: list[Estimate] = [getattr(at, quantity) for at in response.at]
        position = np.arange(len(estimates)) + (number - (len(named) - 1) / 2) * width
        values = np.array([estimate.value for estimate in estimates])
        reach = np.array([[max(e.value - e.low, 0), max(e.high - e.value, 0)] for e in estimates]).T
        axes.bar(position, values, width=0.92 * width, color=colour, linewidth=0, label=label)
        axes.errorbar(position, values, yerr=reach, fmt="none", ecolor=INK, elinewidth=0.9)
    axes.set_xticks(range(len(named[0][2].at)), [f"τ = {words.temperature(at.temperature)}" for at in named[0][2].at])
    axes.grid(visible=False, axis="x")


def levels(gap: GapReport) -> Picture:
    """Mean entropy and free energy of teacher and student at each temperature."""
    named = series_of(gap)
    with house_style("gap-levels"):
        figure = canvas(5.0, 2.9)
        entropy, energy = figure.subplots(1, 2)
        _bars(entropy, named, "entropy")
        _bars(energy, named, "free_energy")
        entropy.set_title("entropy, nats")
        energy.set_title("free energy")
        handles, labels = entropy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
        caption = (
            f"Means over {words.plural(gap.n, f'{gap.split} image')} with 95 % bootstrap intervals. "
            "Equal entropy means the student is as sure as its teacher; free energy F = τ log Σ exp(x/τ) of centred logits."
        )
        return picture(figure, "gap-levels", "gap", "Entropy and free energy", caption)


def per_class(gap: GapReport, pair: PairReport) -> Picture:
    """The entropy gap by class, sorted: where the student is least like its teacher."""
    at = usual_temperature(pair)
    ranked = ranked_classes(gap, at)[::-1]
    names, values = [name for name, _ in ranked], np.array([value for _, value in ranked])
    few = len(values) <= NAMED_CLASSES
    with house_style("gap-classes"):
        figure = canvas(5.0, 0.8 + 0.2 * len(values) if few else 2.6)
        axes = figure.subplots()
        if few:
            axes.barh(range(len(values)), values, color=[STUDENT if value >= 0 else TEACHER for value in values], height=0.72)
            axes.set_yticks(range(len(values)), names)
            axes.axvline(0, color=INK, linewidth=0.6)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel("S(student) − S(teacher), nats")
        else:
            edges = np.arange(len(values) + 1)
            axes.stairs(np.maximum(values, 0), edges, fill=True, color=STUDENT)
            axes.stairs(np.minimum(values, 0), edges, fill=True, color=TEACHER)
            axes.axhline(0, color=INK, linewidth=0.6)
            axes.set_xlabel(f"{len(values)} classes, sorted")
            axes.set_ylabel("S(student) − S(teacher), nats")
        caption = (
            f"Entropy gap of each class at τ = {words.temperature(at.temperature)}, raw logits. Largest: {largest_classes(gap, pair)}."
        )
        return picture(figure, "gap-classes", "gap", _class_title(gap, pair), caption)


def _class_title(gap: GapReport, pair: PairReport) -> str:
    several = len({other.student for other in gap.pairs}) > 1
    return f"Entropy gap by class · {pair.student}" if several else "Entropy gap by class"


def usual_temperature(pair: PairReport) -> PairAt:
    """The comparison at temperature 1, where networks are used, or else at the first one."""
    return next((at for at in pair.at if at.temperature == 1), pair.at[0])


def ranked_classes(gap: GapReport, at: PairAt) -> list[tuple[str, float]]:
    """Classes that have samples, with their entropy gaps, the largest first."""
    found = [(name, value) for name, value in zip(gap.class_names, at.entropy_by_class, strict=True) if value is not None]
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))


def largest_classes(gap: GapReport, pair: PairReport, amount: int = 3) -> str:
    """The classes with the largest entropy gap, in words."""
    ranked = ranked_classes(gap, usual_temperature(pair))
    return ", ".join(f"{name} ({words.signed(value)})" for name, value in ranked[:amount])


def response_profile(gap: GapReport) -> Picture:
    """Mean entropy against temperature: what the teacher has to say at each, up to log K, where it says nothing."""
    ceiling = float(np.log(max(len(gap.class_names), 2)))
    with house_style("response-profile"):
        figure = canvas()
        axes = figure.subplots()
        for label, colour, response in series_of(gap):
            temperatures = [at.temperature for at in response.at]
            band = np.array([[at.entropy.low, at.entropy.high] for at in response.at])
            axes.fill_between(temperatures, band[:, 0], band[:, 1], color=colour, alpha=0.2, linewidth=0)
            axes.plot(temperatures, [at.entropy.value for at in response.at], "o-", color=colour, markersize=4, label=label)
        axes.axhline(ceiling, color=MUTED, linestyle="--", linewidth=1)
        axes.annotate("log K: uniform", (gap.temperatures[0], ceiling), (0, 3), textcoords="offset points", fontsize=7.5, color=MUTED)
        axes.set_xlabel("temperature τ")
        axes.set_ylabel("mean entropy, nats")
        axes.set_ylim(bottom=0, top=1.12 * ceiling)
        legend(axes)
        caption = f"Mean entropy over {words.plural(gap.n, f'{gap.split} image')}; the band is a 95 % bootstrap interval."
        return picture(figure, "response-profile", "gap", "Response profile", caption)
