"""The figures of a teacher by itself: how much its answers say at each temperature, and how it sees
images and classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli import formatting
from kdcli.report.figures.gap import images, series_of
from kdcli.report.figures.palette import MARKERS, MUTED, THINGS, Look, Palette
from kdcli.report.figures.svg import INK, SMALL, Figure, canvas, finished, house_style, legend
from kdcli.report.findings.gap import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdcli.results.gap import GapReport, Response
    from kdcli.results.teacher import ClassProjection, Embedding, Hypothesis, Points

MOST_LINES = 1000  # classes that a figure draws a line each of
LABELLED = 20  # classes of a cloud that are named where they lie
LEAST_VARIED = 0.003  # where the axis of CV_col begins: what is below it is constant without doubt


# ---- entropy against temperature -----------------------------------------------------------------


def entropy_by_temperature(report: GapReport, palette: Palette) -> Figure:
    """Mean entropy against temperature, one line a network, and each class of an only one (paper
    001, figures 3 and 6).
    """
    from matplotlib.ticker import MaxNLocator

    ceiling = float(np.log(max(len(report.class_names), 2)))
    shown = _networks(report, palette)
    with house_style("entropy-temperature"):
        figure = canvas(5.0, 3.3)
        axes = figure.subplots()
        alone = len(shown) == 1
        if alone:
            _class_lines(axes, shown[0][2])
        for label, look, response in shown:
            temperatures = [at.temperature for at in response.at]
            band = np.array([[at.entropy.low, at.entropy.high] for at in response.at])
            axes.fill_between(
                temperatures, band[:, 0], band[:, 1], color=look.colour, alpha=0.2, linewidth=0
            )
            line = ":" if response.form == "aligned" else "-"
            values = [at.entropy.value for at in response.at]
            axes.plot(
                temperatures,
                values,
                line,
                marker=look.marker,
                color=look.colour,
                markersize=4,
                label=label,
            )
        axes.axhline(ceiling, color=MUTED, linestyle="--", linewidth=1)
        top = (max(report.temperatures), ceiling)
        axes.annotate(
            "log K: uniform",
            top,
            (0, 3),
            textcoords="offset points",
            fontsize=SMALL,
            color=MUTED,
            ha="right",
        )
        axes.set_xlabel("temperature τ")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.set_ylabel("mean entropy, nats")
        axes.set_ylim(bottom=0, top=1.13 * ceiling)
        legend(axes, columns=2)
        caption = (
            "Below a nat the answers say little but the label, and where a line nears log K they "
            "no longer tell classes apart."
        )
        basis = (
            f"{images(report)}; bands are 95 % bootstrap "
            f"intervals{'; each thin line is a class' if alone else ''}."
        )
        return finished(
            figure,
            "entropy-temperature",
            "teacher",
            _entropy_title(shown[0][2], ceiling),
            caption,
            basis,
        )


def _entropy_title(response: Response, ceiling: float) -> str:
    first, last = response.at[0], response.at[-1]
    ends = (
        (
            f"{formatting.number(at.entropy.value, 2)} nats at τ = "
            f"{formatting.temperature(at.temperature)}"
        )
        for at in (first, last)
    )
    return (
        f"The teacher's entropy goes from {' to '.join(ends)}, of "
        f"{formatting.number(ceiling, 2)} at "
        "most"
    )


def _class_lines(axes: Axes, response: Response) -> None:
    temperatures = [at.temperature for at in response.at]
    lines = np.array(
        [
            [np.nan if value is None else value for value in at.entropy_by_class]
            for at in response.at
        ]
    )
    if lines.shape[1] > MOST_LINES:  # words of a vocabulary
        return
    axes.plot(
        temperatures,
        lines,
        color=MUTED,
        linewidth=0.6,
        alpha=0.6 if lines.shape[1] <= LABELLED else 0.3,
        zorder=1,
    )


def _networks(report: GapReport, palette: Palette) -> list[tuple[str, Look, Response]]:
    """Teachers, or one teacher and its students, with a look each."""
    if not report.others:
        return [(each.label, each.look, each.response) for each in series_of(report, palette)]
    looks = ((palette.teacher(one.teacher.label), one.teacher) for one in report.reports)
    return [(look.called, look, response) for look, response in looks]


# ---- the verdict as a picture --------------------------------------------------------------------


def hypothesis_map(report: GapReport, palette: Palette) -> Figure | None:
    """Where each teacher lies between distillation, regularisation and label smoothing; None where
    none was judged.
    """
    judged = [
        (one, one.explanation.hypothesis)
        for one in report.reports
        if one.explanation and one.explanation.hypothesis
    ]
    if not judged:
        return None
    first = judged[0][1]
    with house_style("hypothesis"):
        figure = canvas(5.0, 3.4)
        axes = figure.subplots()
        axes.set_xscale("log")
        farthest = max(
            (each.column_cv for _, found in judged for each in found.by_class), default=1.0
        )
        axes.set(xlim=(LEAST_VARIED, max(2.0, 1.5 * farthest)), ylim=(0, 1.02))
        _regions(axes, first)
        if len(judged) == 1:
            known = [(each.column_cv, each.relative_entropy) for each in first.by_class if each.n]
            x, y = np.array(known, dtype=float).reshape(-1, 2).T
            axes.scatter(
                np.maximum(x, LEAST_VARIED),
                y,
                s=14,
                color=MUTED,
                alpha=0.6,
                linewidth=0,
                label="one of its classes",
            )
        for one, found in judged:
            _judged(axes, found, palette.teacher(one.teacher.label))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("CV_col: how much similarity labels vary in a class")
        axes.set_ylabel("entropy / log K")
        _legend_below(axes)
        tau = formatting.temperature(first.temperature)
        caption = (
            "The corner at the top right is where answers are soft and vary from image to image, "
            "which is what distillation passes on."
        )
        basis = (
            f"{images(report)}, τ = {tau}; crosses are normal 95 % intervals, dashed lines the "
            "limits, which are kd's own."
        )
        return finished(
            figure,
            "hypothesis",
            "teacher",
            _verdict_title(judged[0][0], len(judged), first),
            caption,
            basis,
        )


def _verdict_title(one: GapReport, teachers: int, found: Hypothesis) -> str:
    whose = "this teacher" if teachers == 1 else one.teacher.label
    if teachers > 1:
        return (
            "What distilling each teacher amounts to at τ = "
            f"{formatting.temperature(found.temperature)}"
        )
    return (
        f"Distilling {whose} amounts to {amount(found.effect)} at τ = "
        f"{formatting.temperature(found.temperature)}"
    )


def _regions(axes: Axes, found: Hypothesis) -> None:
    limits, right = found.thresholds, axes.get_xlim()[1]
    axes.fill_between(
        [limits.varied, right], limits.entropy, 1.02, color=MUTED, alpha=0.18, linewidth=0
    )
    axes.axvline(limits.constant, color=MUTED, linestyle="--", linewidth=1)
    axes.plot(
        [limits.varied, limits.varied, right],
        [1.02, limits.entropy, limits.entropy],
        color=MUTED,
        linestyle="--",
        linewidth=1,
    )
    above = axes.get_xaxis_transform()
    said: dict[str, Any] = {"fontsize": SMALL, "color": MUTED, "va": "bottom"}
    axes.text(LEAST_VARIED, 1.01, "label smoothing", transform=above, ha="left", **said)
    axes.text(right, 1.01, "distillation", transform=above, ha="right", **said)
    axes.text(1.15 * limits.constant, 0.02, "regularisation", transform=above, ha="left", **said)


def _judged(axes: Axes, found: Hypothesis, look: Look) -> None:
    x, y = max(found.column_cv, LEAST_VARIED), found.relative_entropy
    if found.column_cv_interval:
        axes.plot(
            [max(found.column_cv_interval.low, LEAST_VARIED), found.column_cv_interval.high],
            [y.value] * 2,
            color=look.colour,
        )
    axes.plot([x, x], [y.low, y.high], color=look.colour)
    axes.plot(
        [x],
        [y.value],
        look.marker,
        color=look.colour,
        markersize=8,
        linestyle="none",
        label=look.called,
    )


def _legend_below(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, borderaxespad=0, borderpad=0.2)


# ---- how it sees images --------------------------------------------------------------------------


def projection(report: GapReport, found: ClassProjection) -> Figure:
    """Three classes on the plane of their weights (Müller et al. 2019; paper 001, figures 5 and
    7).
    """
    names = [report.class_names[k] for k in found.classes]
    with house_style("projection"):
        figure = canvas(5.0, 4.0)
        axes = figure.subplots()
        label, x, y = _columns(found.points)
        shown = [formatting.short(name) for name in names]
        for name, number, colour, marker in zip(
            shown, found.classes, THINGS, MARKERS, strict=False
        ):
            mine = label == number
            axes.scatter(
                x[mine],
                y[mine],
                s=10,
                marker=marker,
                color=colour,
                alpha=0.55,
                linewidth=0,
                label=name,
            )
        for place, (tx, ty), (cx, cy), colour, marker in zip(
            range(3), found.templates, found.centres, THINGS, MARKERS, strict=False
        ):
            axes.plot(
                [cx],
                [cy],
                marker,
                color=colour,
                markeredgecolor=INK,
                markersize=8,
                label="centre" if place == 0 else None,
            )
            axes.plot(
                [tx],
                [ty],
                "X",
                color=colour,
                markeredgecolor=INK,
                markersize=9,
                label="weights" if place == 0 else None,
            )
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"towards {shown[1]}")
        axes.set_ylabel(f"towards {shown[2]}")
        legend(axes, columns=3 if max(map(len, shown)) > 4 else 5)
        title = (
            f"Spread within classes {formatting.listed(names)} is "
            f"{formatting.number(found.spread.value, 2)} of that between them"
        )
        caption = (
            "Tight clouds far from each other have lost what makes images of one class differ, "
            "and with it what a teacher could pass on."
        )
        spread = (
            f"{formatting.number(found.spread.low, 2)} to {formatting.number(found.spread.high, 2)}"
        )
        basis = (
            f"{formatting.listed([str(n) for n in found.n])} images of the three classes; spread "
            f"{spread}, a normal 95 % interval."
        )
        return finished(figure, "projection", "teacher", title, caption, basis)


def _columns(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(points.label), np.array(points.x), np.array(points.y)


def embedding(report: GapReport, found: Embedding) -> Figure:
    """t-SNE of the features (paper 003, figure 5)."""
    order = (
        report.explanation.relations.order
        if report.explanation and report.explanation.relations
        else range(len(report.class_names))
    )
    with house_style("tsne"):
        figure = canvas(5.0, 4.6)
        axes = figure.subplots()
        label, x, y = _columns(found.points)
        _cloud(axes, label, x, y, order)
        if len(report.class_names) <= LABELLED:
            _names(axes, report.class_names, label, x, y)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        separate = (
            report.explanation.silhouette.value
            if report.explanation and report.explanation.silhouette
            else None
        )
        apart = (
            (
                f"silhouette {formatting.number(separate.value, 2)} "
                f"[{formatting.number(separate.low, 2)}, "
                f"{formatting.number(separate.high, 2)}]"
            )
            if separate
            else ""
        )
        title = (
            f"The teacher keeps classes apart: {apart}"
            if separate and separate.value > 0
            else "t-SNE of the teacher's features"
        )
        caption = (
            "Islands are classes that the teacher tells apart, and points in a foreign island "
            "are images that it takes for that class."
        )
        drawn = (
            f"t-SNE of {formatting.plural(len(x), 'image')} of {formatting.thousands(found.of)}; "
            "distances between islands mean nothing"
        )
        interval = "; the silhouette is of all dimensions, with a normal 95 % interval"
        basis = f"{drawn}{interval if separate else ''}."
        return finished(figure, "tsne", "teacher", title, caption, basis)


def _cloud(
    axes: Axes, label: np.ndarray, x: np.ndarray, y: np.ndarray, order: Sequence[int]
) -> None:
    """A hue a class where there are many, neighbours for those of one superclass; a few hues and
    markers where they carry names.
    """
    size = 9 if len(x) > 800 else 16
    if len(order) > LABELLED:
        from matplotlib import colormaps

        place = np.empty(len(order), dtype=int)
        place[np.array(order)] = np.arange(len(order))
        axes.scatter(
            x,
            y,
            s=size,
            c=colormaps["turbo"](0.06 + 0.88 * place[label] / (len(order) - 1)),
            alpha=0.75,
            linewidth=0,
        )
        return
    for turn, number in enumerate(np.unique(label)):
        mine = label == number
        marker, colour = MARKERS[turn // len(THINGS) % len(MARKERS)], THINGS[turn % len(THINGS)]
        axes.scatter(x[mine], y[mine], s=size, marker=marker, color=colour, alpha=0.6, linewidth=0)


def _names(
    axes: Axes, names: Sequence[str], label: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    for number in np.unique(label):
        mine = label == number
        axes.text(
            np.median(x[mine]),
            np.median(y[mine]),
            formatting.short(names[number]),
            ha="center",
            va="center",
            fontsize=11,
            weight="bold",
        )
