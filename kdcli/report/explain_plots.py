"""The figures of `kd analyze-gap --plot`: what a teacher has to teach, what its students made of it, and how that goes with size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kdcli.report import gap_plots, heatmaps, words
from kdcli.report.pictures import Picture, picture
from kdcli.report.svg import INK, MUTED, STUDENT, TEACHER, TERMS, canvas, house_style, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdcli.comparisons import DegradationCurve
    from kdcli.explanations import ClassProjection, Embedding, Points
    from kdcli.results import GapReport, Response

WIDE = 30  # factors above this go on a logarithmic axis, or they would flatten all others
LABELLED = 20  # classes of a cloud that are named where they lie
_WORDLESS = re.compile(r"[^\w.-]+")


def draw(report: GapReport) -> Iterator[Picture]:
    """Every figure that the report has numbers for. With several teachers, what is said of one has its label in its name."""
    if len(report.temperatures) >= gap_plots.PROFILE_POINTS:
        yield entropy_by_temperature(report)
    if report.curve:
        yield degradation(report, report.curve)
    for one in report.reports:
        suffix = f"-{_WORDLESS.sub('-', one.teacher.label)}" if report.others else ""
        for each in _of_one(one):
            yield replace(each, name=each.name + suffix, title=f"{each.title} · {one.teacher.label}" if suffix else each.title)


def _of_one(report: GapReport) -> Iterator[Picture]:
    for plot in gap_plots.draw(report):
        if plot.name != "response-profile":  # entropy_by_temperature has it, with more in it
            yield plot
    yield from heatmaps.class_relations(report)
    if found := report.explanation:
        if found.projection:
            yield projection(report, found.projection)
        if cloud := found.tsne or found.pca:
            yield embedding(report, cloud)
    if any(pair.rescaling for pair in report.explanations):
        yield rescaling(report)
    yield from heatmaps.logit_difference(report)
    yield from heatmaps.cka(report)


# ---- the teacher alone -----------------------------------------------------------------------------------------------


def entropy_by_temperature(report: GapReport) -> Picture:
    """Mean entropy against temperature, one line a network, and each class of an only one (paper 001, figures 3 and 6)."""
    ceiling = float(np.log(max(len(report.class_names), 2)))
    shown = _networks(report)
    with house_style("entropy-temperature"):
        figure = canvas(5.0, 3.3)
        axes = figure.subplots()
        alone = len(shown) == 1
        if alone:
            _class_lines(axes, shown[0][2])
        for label, colour, response in shown:
            temperatures = [at.temperature for at in response.at]
            band = np.array([[at.entropy.low, at.entropy.high] for at in response.at])
            axes.fill_between(temperatures, band[:, 0], band[:, 1], color=colour, alpha=0.2, linewidth=0)
            axes.plot(temperatures, [at.entropy.value for at in response.at], "o-", color=colour, markersize=4, label=label)
        axes.axhline(ceiling, color=MUTED, linestyle="--", linewidth=1)
        axes.annotate(
            "log K: uniform", (max(report.temperatures), ceiling), (0, 3), textcoords="offset points", fontsize=7.5, color=MUTED, ha="right"
        )
        axes.set_xlabel("temperature τ")
        axes.set_ylabel("mean entropy, nats")
        axes.set_ylim(bottom=0, top=1.1 * ceiling)
        legend(axes, columns=2)
        caption = "Where a line nears log K the answers say no more of how alike classes are; below a nat they say little but the label"
        caption += "; each class is a thin line." if alone else "."
        return picture(figure, "entropy-temperature", "teacher", "Entropy against temperature", caption)


def _class_lines(axes: Axes, response: Response) -> None:
    temperatures = [at.temperature for at in response.at]
    lines = np.array([[np.nan if value is None else value for value in at.entropy_by_class] for at in response.at])
    axes.plot(temperatures, lines, color=MUTED, linewidth=0.6, alpha=0.6 if lines.shape[1] <= LABELLED else 0.3, zorder=1)


def _networks(report: GapReport) -> list[tuple[str, str, Response]]:
    """Teachers, or one teacher and its students, with a colour each."""
    if not report.others:
        return gap_plots.series_of(report)
    return [(one.teacher.label, TERMS[place % len(TERMS)], one.teacher) for place, one in enumerate(report.reports)]


def projection(report: GapReport, found: ClassProjection) -> Picture:
    """Three classes on the plane of their weights (Müller et al. 2019; paper 001, figures 5 and 7)."""
    names = [report.class_names[k] for k in found.classes]
    with house_style("projection"):
        figure = canvas(4.4, 3.7)
        axes = figure.subplots()
        label, x, y = _columns(found.points)
        for name, number, colour in zip(names, found.classes, TERMS, strict=False):
            mine = label == number
            axes.scatter(x[mine], y[mine], s=9, color=colour, alpha=0.55, linewidth=0, label=name)
        for number, ((tx, ty), (cx, cy), colour) in enumerate(zip(found.templates, found.centres, TERMS, strict=False)):
            axes.plot([cx], [cy], "o", color=colour, markeredgecolor="#ffffff", markersize=8, label="centre" if number == 0 else None)
            axes.plot([tx], [ty], "X", color=colour, markeredgecolor=INK, markersize=8, label="weights" if number == 0 else None)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"towards {names[1]}")
        axes.set_ylabel(f"towards {names[2]}")
        legend(axes, columns=3 if max(map(len, names)) > 6 else 5)
        spread = f"{words.number(found.spread.value)} [{words.number(found.spread.low)}, {words.number(found.spread.high)}]"
        caption = f"Tight clouds far from each other have lost what makes images of a class differ: spread within over between is {spread}."
        return picture(figure, "projection", "teacher", f"Features of {words.listed(names)}", caption)


def _columns(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(points.label), np.array(points.x), np.array(points.y)


def embedding(report: GapReport, found: Embedding) -> Picture:
    """t-SNE of the features, or their two main directions (paper 003, figure 5)."""
    name = "tsne" if found.kind == "tsne" else "pca"
    order = report.explanation.relations.order if report.explanation and report.explanation.relations else range(len(report.class_names))
    with house_style(name):
        figure = canvas(4.6, 4.4)
        axes = figure.subplots()
        label, x, y = _columns(found.points)
        axes.scatter(x, y, s=9 if len(x) > 800 else 14, c=_colours(label, order), alpha=0.75, linewidth=0)
        if len(report.class_names) <= LABELLED:
            _names(axes, report.class_names, label, x, y)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        kind = "t-SNE" if found.kind == "tsne" else "The two main directions"
        separate = report.explanation.silhouette.value if report.explanation and report.explanation.silhouette else None
        said = f" (silhouette {words.number(separate.value, 2)} in all dimensions)" if separate else ""
        caption = (
            f"Islands are classes that the teacher tells apart, and points in a foreign one are images that it takes for that class{said}; "
            "distances between islands mean nothing."
        )
        return picture(figure, name, "teacher", f"{kind} of the teacher's features, {words.plural(len(x), 'image')}", caption)


def _colours(label: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """A colour a class: far apart where there are few, neighbouring for classes of one superclass where there are many."""
    from matplotlib import colormaps

    place = np.empty(len(order), dtype=int)
    place[np.array(order)] = np.arange(len(order))
    if len(order) <= 10:
        return np.asarray(colormaps["tab10"](place[label]))
    return np.asarray(colormaps["turbo"](0.04 + 0.92 * place[label] / (len(order) - 1)))


def _names(axes: Axes, names: Sequence[str], label: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    from matplotlib import patheffects

    for number in np.unique(label):
        mine = label == number
        text = axes.text(np.median(x[mine]), np.median(y[mine]), names[number], ha="center", va="center", fontsize=9, weight="bold")
        text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="#ffffff")])
        text.set_color("#1c2128")


# ---- pairs -----------------------------------------------------------------------------------------------------------


def rescaling(report: GapReport) -> Picture:
    """How distillation rescales the gradient against the teacher's confidence, binned (paper 002, Prop. 2)."""
    shown = [pair for pair in report.explanations if pair.rescaling and pair.rescaling[0].curve]
    with house_style("rescaling"):
        figure = canvas(5.0, 3.2)
        axes = figure.subplots()
        for place, pair in enumerate(shown):
            found, colour = pair.rescaling[0], STUDENT if len(shown) == 1 else TERMS[place % len(TERMS)]
            x = [each.confidence for each in found.curve]
            axes.fill_between(
                x, [each.low for each in found.curve], [each.high for each in found.curve], color=colour, alpha=0.2, linewidth=0
            )
            rho = "" if found.spearman is None else f", ρ = {words.signed(found.spearman.value, 2)}"
            axes.plot(x, [each.median for each in found.curve], "o-", color=colour, markersize=3.5, label=f"{pair.student}{rho}")
        axes.axhline(0, color=INK, linewidth=0.6)
        if max(abs(end) for pair in shown for each in pair.rescaling[0].curve for end in (each.low, each.high)) > WIDE:
            axes.set_yscale("symlog", linthresh=1)  # a student that is nearly sure of a label has hardly a gradient to multiply
        tau = {words.temperature(pair.rescaling[0].temperature) for pair in shown}
        axes.set_xlabel(f"teacher's confidence in the label{f', τ = {tau.pop()}' if len(tau) == 1 else ''}")
        axes.set_ylabel("factor on the gradient")
        legend(axes, columns=1 if any(len(pair.student) > 12 for pair in shown) else 2)
        caption = "A rising line: distillation trains harder on images of which the teacher is surer; median and quartiles, ρ is the rank correlation."
        return picture(figure, "rescaling", "pair", "Gradient rescaling against confidence", caption)


# ---- several at once -------------------------------------------------------------------------------------------------


def degradation(report: GapReport, curve: DegradationCurve) -> Picture:
    """Students' accuracy, and the entropy gap, as one side grows (paper 000, Table 7 and Fig. 1; paper 001, Fig. 9)."""
    size = np.array([row.capacity for row in curve.rows])
    with house_style("degradation"):
        figure = canvas(5.0, 4.2)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        accuracy = 100 * np.array([row.accuracy for row in curve.rows])
        reach = 100 * np.array(
            [[row.accuracy - row.accuracy_interval.low, row.accuracy_interval.high - row.accuracy] for row in curve.rows]
        )
        top.errorbar(size, accuracy, yerr=np.maximum(reach.T, 0), fmt="o-", color=STUDENT, markersize=5, elinewidth=1, label="student")
        teacher = 100 * np.array([row.teacher_accuracy for row in curve.rows])
        if curve.varies == "teacher":
            top.plot(size, teacher, "s--", color=TEACHER, markersize=4, linewidth=1.2, label="its teacher")
        else:
            top.axhline(teacher[0], color=TEACHER, linestyle="--", linewidth=1.2, label="teacher")
        top.set_ylabel("accuracy, %")
        legend(top)
        gaps = np.array([[row.entropy.value, row.entropy.low, row.entropy.high] for row in curve.rows])
        spread = np.maximum(np.abs(gaps[:, 1:] - gaps[:, :1]).T, 0)
        bottom.errorbar(size, gaps[:, 0], yerr=spread, fmt="o-", color=STUDENT, markersize=5, elinewidth=1)
        bottom.axhline(0, color=INK, linewidth=0.6)
        bottom.set_ylabel(f"S gap at τ = {words.temperature(curve.temperature)}")
        bottom.set_xlabel(f"{curve.measure} of the {curve.varies}")
        _sizes(bottom, size)
        caption = (
            f"A student's line that falls to the right is a {curve.varies} too large for it; bars are 95 % intervals over "
            f"{words.plural(report.n, 'image')}, and the gap below says how much less sure students are."
            if curve.varies == "teacher"
            else f"How much accuracy each size of student keeps of its teacher's; bars are 95 % intervals over {words.plural(report.n, 'image')}."
        )
        return picture(figure, "degradation", "curve", "Accuracy and gap by size", caption)


def _sizes(axes: Axes, size: np.ndarray) -> None:
    """A logarithmic axis whose ticks are the networks' own sizes, as far as they do not touch."""
    axes.set_xscale("log")
    axes.minorticks_off()
    kept: list[float] = []
    least = 0.12 * np.log(size.max() / size.min()) if size.max() > size.min() else 0.0
    for value in sorted(set(size.tolist())):
        if not kept or np.log(value / kept[-1]) >= least:
            kept.append(value)
    axes.set_xticks(kept, [words.count(round(value)) for value in kept])
