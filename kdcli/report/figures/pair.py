"""The figures of `kd analyze-gap`: what a teacher has to teach, what its students made of it, and
how that goes with size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kdcli import formatting
from kdcli.report.figures import gap as gap_figures
from kdcli.report.figures import matrices
from kdcli.report.figures import teacher as teacher_figures
from kdcli.report.figures.palette import MUTED, Look, Palette
from kdcli.report.figures.svg import INK, Figure, apart, canvas, finished, house_style, legend
from kdcli.report.findings.gap_tables import said_of_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdcli.results.gap import GapReport
    from kdcli.results.pair import DegradationCurve, DegradationRow

WIDE = 30  # factors above this go on a logarithmic axis, or they would flatten all others
_WORDLESS = re.compile(r"[^\w.-]+")


def figures_of_report(report: GapReport) -> Iterator[Figure]:
    """Every figure that the report has numbers for. With several teachers, what is said of one has
    its label in its name.
    """
    palette = Palette.of(report)
    if judged := teacher_figures.hypothesis_map(report, palette):
        yield judged
    if len(report.temperatures) >= gap_figures.PROFILE_POINTS:
        yield teacher_figures.entropy_by_temperature(report, palette)
    if report.curve:
        yield degradation(report, report.curve, palette)
    for number, one in enumerate(report.reports):
        for each in _of_one(one, palette):
            yield _belonging(each, one.teacher.label, number) if report.others else each


def _belonging(plot: Figure, label: str, number: int) -> Figure:
    """A figure of one teacher among several: its label in name and title, its place in the
    section.
    """
    return replace(
        plot,
        name=f"{plot.name}-{_WORDLESS.sub('-', label)}",
        section=f"{plot.section}-{number}",
        title=f"{label}: {plot.title}",
        svg=apart(plot.svg, f"-{number}"),
    )


def _of_one(report: GapReport, palette: Palette) -> Iterator[Figure]:
    yield from gap_figures.figures_of_gap(report, palette)
    yield from matrices.class_relations(report)
    if found := report.explanation:
        if found.projection:
            yield teacher_figures.projection(report, found.projection)
        if found.tsne:
            yield teacher_figures.embedding(report, found.tsne)
    if any(pair.rescaling and pair.rescaling[0].curve for pair in report.explanations):
        yield rescaling(report, palette)
    yield from matrices.logit_difference(report)
    yield from matrices.cka(report)


# ---- pairs ---------------------------------------------------------------------------------------


def rescaling(report: GapReport, palette: Palette) -> Figure:
    """How distillation rescales the gradient against the teacher's confidence, binned (paper 002,
    Prop. 2).
    """
    shown = [pair for pair in report.explanations if pair.rescaling and pair.rescaling[0].curve]
    with house_style("rescaling"):
        figure = canvas(5.0, 3.2)
        axes = figure.subplots()
        for pair in shown:
            found, look = pair.rescaling[0], palette.student(pair.student)
            x = [each.confidence for each in found.curve]
            low, high = [each.low for each in found.curve], [each.high for each in found.curve]
            axes.fill_between(x, low, high, color=look.colour, alpha=0.2, linewidth=0)
            rho = (
                ""
                if found.spearman is None
                else f", ρ = {formatting.signed(found.spearman.value, 2)}"
            )
            medians = [each.median for each in found.curve]
            axes.plot(
                x,
                medians,
                "-",
                marker=look.marker,
                color=look.colour,
                markersize=3.5,
                label=f"{look.called}{rho}",
            )
        axes.axhline(0, color=INK, linewidth=0.6)
        if (
            max(
                abs(end)
                for pair in shown
                for each in pair.rescaling[0].curve
                for end in (each.low, each.high)
            )
            > WIDE
        ):
            _wide_axis(axes)
        tau = {formatting.temperature(pair.rescaling[0].temperature) for pair in shown}
        axes.set_xlabel(
            f"teacher's confidence in the label{f', τ = {tau.pop()}' if len(tau) == 1 else ''}"
        )
        axes.set_ylabel("factor on the gradient")
        legend(
            axes,
            columns=1 if any(len(pair.student) > 12 for pair in shown) and len(shown) > 1 else 2,
        )
        caption = (
            "A rising line means that distillation trains harder on images of which the teacher "
            "is surer."
        )
        return finished(
            figure, "rescaling", "pair", _rescaling_title(report), caption, _rescaling_basis(report)
        )


def _wide_axis(axes: Axes) -> None:
    """Logarithmic both ways: a student that is nearly sure of a label has hardly a gradient to
    multiply.
    """
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.get_major_locator().set_params(numticks=6)  # type: ignore[call-arg]  # the logarithmic one's
    axes.yaxis.set_major_formatter(
        lambda x, _: (formatting.MINUS if x < 0 else "") + formatting.count(round(abs(x)))
    )


def _rescaling_title(report: GapReport) -> str:
    found = (
        report.explanations[0].rescaling[0].spearman
        if len(report.explanations) == 1 and report.explanations[0].rescaling
        else None
    )
    if found is None:
        return "How distillation rescales the gradient by the teacher's confidence"
    if found.low <= 0 <= found.high:
        return (
            "The gradient does not follow the teacher's confidence: ρ = "
            f"{formatting.signed(found.value, 2)}, within noise"
        )
    return (
        f"Distillation trains {'harder' if found.value > 0 else 'less'} where the teacher is "
        f"surer: ρ = {formatting.signed(found.value, 2)}"
    )


def _rescaling_basis(report: GapReport) -> str:
    shown = [pair.rescaling[0] for pair in report.explanations if pair.rescaling]
    rho = shown[0].spearman if len(shown) == 1 else None
    reach = (
        (
            f", bootstrap 95 % interval {formatting.signed(rho.low, 2)} to "
            f"{formatting.signed(rho.high, 2)}"
        )
        if rho
        else ""
    )
    return (
        f"n = {formatting.thousands(shown[0].n)} {report.split} images; median and quartiles of "
        f"equally filled bins; ρ: rank correlation{reach}."
    )


# ---- several at once -----------------------------------------------------------------------------


def degradation(report: GapReport, curve: DegradationCurve, palette: Palette) -> Figure:
    """Students' accuracy, and the entropy gap, as one side grows (paper 000, Table 7 and Fig. 1;
    paper 001, Fig. 9).
    """
    size = np.array([row.capacity for row in curve.rows])
    with house_style("degradation"):
        figure = canvas(5.0, 4.4)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _accuracies(top, curve, size, palette)
        gaps = np.array(
            [[row.entropy.value, row.entropy.low, row.entropy.high] for row in curve.rows]
        )
        spread = np.maximum(np.abs(gaps[:, 1:] - gaps[:, :1]).T, 0)
        bottom.errorbar(
            size, gaps[:, 0], yerr=spread, fmt="-", color=MUTED, linewidth=1.2, elinewidth=1
        )
        for row, place, value in zip(curve.rows, size, gaps[:, 0], strict=True):
            look = palette.student(_sides(curve, row)[1])
            bottom.plot(place, value, look.marker, color=look.colour, markersize=6)
        bottom.axhline(0, color=INK, linewidth=0.6)
        bottom.set_ylabel(f"S gap at τ = {formatting.temperature(curve.temperature)}")
        bottom.set_xlabel(f"parameters of the {curve.varies}")
        _sizes(bottom, size)
        caption = (
            (
                "A full line that falls to the right means a teacher too large for its student; "
                "dashed are the teachers themselves."
            )
            if curve.varies == "teacher"
            else (
                "The nearer a student's point to the dashed line, the more it keeps of its "
                "teacher's accuracy."
            )
        )
        basis = (
            f"{gap_figures.images(report)}; bars are 95 % intervals over images: Wilson's of "
            "accuracies, bootstrap of gaps."
        )
        said = said_of_curve(report)
        return finished(figure, "degradation", "curve", said[0].upper() + said[1:], caption, basis)


def _sides(curve: DegradationCurve, row: DegradationRow) -> tuple[str, str]:
    """Labels of a row's teacher and student."""
    return (row.label, row.other) if curve.varies == "teacher" else (row.other, row.label)


def _accuracies(axes: Axes, curve: DegradationCurve, size: np.ndarray, palette: Palette) -> None:
    """Each network at its size, students with their intervals on a line, teachers without."""
    accuracy = 100 * np.array([row.accuracy for row in curve.rows])
    reach = 100 * np.array(
        [
            [row.accuracy - row.accuracy_interval.low, row.accuracy_interval.high - row.accuracy]
            for row in curve.rows
        ]
    )
    axes.errorbar(
        size,
        accuracy,
        yerr=np.maximum(reach.T, 0),
        fmt="-",
        color=MUTED,
        linewidth=1.2,
        elinewidth=1,
    )
    axes.plot(
        size, [100 * row.teacher_accuracy for row in curve.rows], "--", color=MUTED, linewidth=1.2
    )
    drawn: set[Look] = set()
    for place, row in zip(size, curve.rows, strict=True):
        teacher, student = _sides(curve, row)
        for look, value, width in (
            (palette.teacher(teacher), row.teacher_accuracy, 5),
            (palette.student(student), row.accuracy, 6),
        ):
            name = None if look in drawn else look.called
            axes.plot(
                place, 100 * value, look.marker, color=look.colour, markersize=width, label=name
            )
            drawn.add(look)
    axes.set_ylabel("accuracy, %")
    legend(axes, columns=2 if any(len(look.called) > 12 for look in drawn) else 4)


def _sizes(axes: Axes, size: np.ndarray) -> None:
    """A logarithmic axis whose ticks are the networks' own sizes, as far as they do not touch."""
    axes.set_xscale("log")
    axes.minorticks_off()
    kept: list[float] = []
    least = 0.15 * np.log(size.max() / size.min()) if size.max() > size.min() else 0.0
    for value in sorted(set(size.tolist())):
        if not kept or np.log(value / kept[-1]) >= least:
            kept.append(value)
    axes.set_xticks(kept, [formatting.count(round(value)) for value in kept])
