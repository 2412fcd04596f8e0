"""The figures of a run: accuracy beside its teacher, curves, calibration and confusion.

Those of the gap and of what explains it are in explain_plots, those of what was probed along
training in probe_plots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdcli import formatting
from kdcli.report.figures import dynamics as dynamics_figures
from kdcli.report.figures import pair as pair_figures
from kdcli.report.figures.palette import DASHES, MUTED, STUDENT, TEACHER, TEACHERS, THINGS
from kdcli.report.figures.svg import (
    INK,
    Figure,
    canvas,
    epoch_axis,
    finished,
    house_style,
    legend,
)
from kdcli.report.findings.run import beside, best_teacher
from kdcli.results.measures import Measures, share_of
from kdcli.results.run import CalibrationCurve, RunAnalysis
from kdcli.runs.read import Epoch, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED_CLASSES = 20  # above this a confusion matrix has no room for counts and names
LOG_RANGE = 30.0  # a loss that spans more than this factor is drawn on a log axis


def figures_of_run(run: Run) -> tuple[Figure, ...]:
    """All figures that the run has data for, in the order of the report."""
    return tuple(_figures(run))


def _figures(run: Run) -> Iterator[Figure]:
    own = own_colour(run)
    bars = [bar for bar in _measured(run) if bar.measures.labelled is not None]
    if run.summary and len(bars) > 1:
        yield accuracy_levels(bars, beside(run))
    if run.analysis:
        if run.analysis.gap:
            yield from pair_figures.figures_of_report(run.analysis.gap)
        if any(any(curve.count) for curve in run.analysis.calibration.values()):
            yield reliability(run.analysis, own)
        if run.analysis.confusion:
            yield confusion(run.analysis, own)
    if len(run.epochs) > 1:
        yield losses(run.epochs)
        if any(
            formatting.known(share)
            for epoch in run.epochs
            for share in (epoch.train_accuracy, share_of(epoch.val) if epoch.val else None)
        ):
            yield accuracy_curves(run.epochs, own, _teacher_level(run))
        yield learning_rate(run.epochs)
    yield from dynamics_figures.figures_of_dynamics(run)


def own_colour(run: Run) -> str:
    """The run's own network is a student; one that learns from labels alone, and is held against
    nothing, is a teacher to be.
    """
    report = run.analysis.gap if run.analysis else None
    return STUDENT if run.command == "distill" or (report and report.pairs) else TEACHER


class Bar(NamedTuple):
    """One network on the accuracy axis."""

    label: str
    measures: Measures
    colour: str


def _measured(run: Run) -> list[Bar]:
    """What stands on the accuracy axis: teachers, the label-only baseline, and the network
    itself.
    """
    if run.summary is None:
        return []
    taught = [teacher for teacher in run.summary.teachers if teacher.test]
    bars = [
        Bar(f"teacher\n{teacher.architecture}", teacher.test, TEACHERS[place % len(TEACHERS)])
        for place, teacher in enumerate(taught)
        if teacher.test
    ]
    if run.baseline:
        bars.append(Bar("labels only\n" + run.baseline.network, run.baseline.test, MUTED))
    own = "student" if run.command == "distill" else "network"
    return [*bars, Bar(f"{own}\n{run.summary.network}", run.summary.test, own_colour(run))]


def _teacher_level(run: Run) -> float | None:
    best = best_teacher(run.summary) if run.summary else None
    return best.test.accuracy if best and best.test else None


# ---- accuracy ------------------------------------------------------------------------------------


def accuracy_levels(measured: Sequence[Bar], title: str) -> Figure:
    """Accuracies with their 95 % intervals on one axis; the last one is the run's own."""
    with house_style("accuracy"):
        figure = canvas(5.0, 0.8 + 0.55 * len(measured))
        axes = figure.subplots()
        for row, (_, measures, colour) in enumerate(reversed(measured)):
            found = measures.labelled
            assert found is not None  # networks without accuracies are no bars
            interval, level = found.accuracy_interval, 100 * found.accuracy
            axes.plot(
                [100 * interval.low, 100 * interval.high],
                [row, row],
                color=colour,
                linewidth=5,
                alpha=0.4,
            )
            axes.plot(level, row, "o", color=colour, markersize=8)
            shown = formatting.percent(measures.accuracy, measures.n)
            axes.annotate(
                shown, (level, row), (0, 7), textcoords="offset points", ha="center", fontsize=9.5
            )
        axes.set_yticks(
            range(len(measured)),
            [
                "\n".join(formatting.short(line, 24) for line in bar.label.split("\n"))
                for bar in reversed(measured)
            ],
        )
        axes.set_ylim(-0.6, len(measured) - 0.25)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("test accuracy, %")
        caption = "The further two bars overlap, the less their difference means."
        basis = (
            f"n = {formatting.plural(measured[-1].measures.n, 'test image')}; bars are "
            "Wilson's 95 % "
            "intervals."
        )
        return finished(figure, "accuracy", "accuracy", title, caption, basis)


# ---- curves --------------------------------------------------------------------------------------


def _starts(epochs: Sequence[Epoch]) -> list[int]:
    """Where a stage begins: positions in `epochs`."""
    return [
        position
        for position, epoch in enumerate(epochs)
        if position == 0 or epoch.stage != epochs[position - 1].stage
    ]


def _broken(
    epochs: Sequence[Epoch], values: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs from 1 on and their values, with a gap where a stage begins: no line leads from one
    network to the next.
    """
    breaks = _starts(epochs)[1:]
    position = np.arange(1.0, len(epochs) + 1)
    return np.insert(position, breaks, np.nan), np.insert(
        np.asarray(values, dtype=float), breaks, np.nan
    )


def _epoch_axis(axes: Axes, epochs: Sequence[Epoch]) -> None:
    # an epoch stands at its end, so a stage begins half an epoch before its first
    starts = _starts(epochs)
    epoch_axis(
        axes, [(start + 0.5, epochs[start].stage) for start in starts] if len(starts) > 1 else ()
    )


def losses(epochs: Sequence[Epoch]) -> Figure:
    """Each term of the loss per epoch: means over its images, as weighted in the sum."""
    terms = list(dict.fromkeys(name for epoch in epochs for name in epoch.losses))
    with house_style("losses"):
        figure = canvas()
        axes = figure.subplots()
        _epoch_axis(axes, epochs)
        values = {
            term: np.array([epoch.losses.get(term, np.nan) for epoch in epochs], dtype=float)
            for term in terms
        }
        for place, term in enumerate(terms):
            colour, dash = THINGS[place % len(THINGS)], DASHES[place % len(DASHES)]
            axes.plot(*_broken(epochs, values[term]), linestyle=dash, color=colour, label=term)
        logarithmic = _wide_range(np.concatenate(list(values.values()))) if values else False
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("loss (log scale)" if logarithmic else "loss")
        legend(axes)
        caption = (
            "A term that stays high is one that the student cannot meet, and the higher of two "
            "pulls harder."
        )
        basis = "Each term as it is weighted in the sum, mean over an epoch's training images."
        return finished(figure, "losses", "curves", _loss_title(epochs), caption, basis)


def _loss_title(epochs: Sequence[Epoch]) -> str:
    last = [epoch for epoch in epochs if epoch.stage == epochs[-1].stage]
    first, end = (sum(epoch.losses.values()) for epoch in (last[0], last[-1]))
    if len(last) < 2 or not (np.isfinite(first) and np.isfinite(end)):
        return "Terms of the loss"
    went = "fell" if end < first else "rose"
    return (
        f"The loss {went} from {first:.3g} to {end:.3g} in {formatting.plural(len(last), 'epoch')}"
    )


def _wide_range(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return (
        finite.size > 0 and bool(finite.min() > 0) and bool(finite.max() > LOG_RANGE * finite.min())
    )


def accuracy_curves(epochs: Sequence[Epoch], own: str, teacher: float | None = None) -> Figure:
    """Accuracy per epoch on training images and on the held-out part, with the teacher's test
    accuracy as a level.
    """
    with house_style("accuracy-curves"):
        figure = canvas()
        axes = figure.subplots()
        _epoch_axis(axes, epochs)
        train = [100 * epoch.train_accuracy for epoch in epochs]
        if np.isfinite(train).any():
            axes.plot(
                *_broken(epochs, train),
                linestyle=DASHES[2],
                color=own,
                linewidth=1.6,
                label="training",
            )
        held_out = [epoch.val for epoch in epochs]
        shares = [None if val is None else share_of(val) for val in held_out]
        bare = any(val is not None and val.accuracy is None for val in held_out)
        if any(share is not None for share in shares):
            validation = [np.nan if share is None else 100 * share for share in shares]
            label = "validation, as the teacher answers" if bare else "validation"
            axes.plot(*_broken(epochs, validation), color=own, label=label)
        if teacher is not None:
            axes.axhline(
                100 * teacher, color=TEACHER, linestyle="--", linewidth=1.2, label="teacher, test"
            )
        axes.set_ylabel("agreement, %" if bare else "accuracy, %")
        legend(axes)
        sizes = sorted({val.n for val in held_out if val})
        held = (
            f"validation: n = {formatting.plural(sizes[-1], 'image')} held out of the training set"
            if sizes
            else "nothing is held out"
        )
        caption = (
            "A training curve that leaves the validation curve below it is what the network has "
            "learned by heart."
        )
        if not sizes:
            caption = "A curve that is still rising at the end asks for more epochs."
        basis = f"Training accuracy is a mean over the epoch, while the weights change; {held}."
        return finished(
            figure, "accuracy-curves", "curves", _curves_title(epochs[-1]), caption, basis
        )


def _curves_title(last: Epoch) -> str:
    train = formatting.percent(last.train_accuracy)
    share = None if last.val is None else share_of(last.val)
    held = "" if share is None or last.val is None else formatting.percent(share, last.val.n)
    if last.val is not None and last.val.accuracy is None and held:
        taught = f"{held} of held-out images are answered as by the teacher"
        right = f", {train} of training images are right"
        return f"At the end {taught}{right if formatting.known(last.train_accuracy) else ''}"
    more = f", {held} of held-out images" if held else ""
    return f"At the end {train} of training images are right{more}"


def learning_rate(epochs: Sequence[Epoch]) -> Figure:
    """The learning rate at the end of each epoch."""
    with house_style("learning-rate"):
        figure = canvas(5.0, 1.9)
        axes = figure.subplots()
        _epoch_axis(axes, epochs)
        axes.plot(*_broken(epochs, [epoch.lr for epoch in epochs]), color=THINGS[0])
        axes.set_ylabel("learning rate")
        axes.set_ylim(bottom=0)
        end = "nearly 0" if 0 < epochs[-1].lr < epochs[0].lr / 1000 else f"{epochs[-1].lr:.3g}"
        title = f"The learning rate went from {epochs[0].lr:.3g} to {end}"
        caption = "Where it drops, the curves above should settle."
        return finished(
            figure, "learning-rate", "curves", title, caption, "At the end of each epoch."
        )


# ---- calibration and confusion -------------------------------------------------------------------


def reliability(analysis: RunAnalysis, own: str) -> Figure:
    """Reliability diagrams side by side: the share that is right among predictions of like
    confidence.
    """
    curves = teacher_first(analysis.calibration)
    with house_style("reliability"):
        figure = canvas(5.0, 3.0)
        panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for axes, (label, curve) in zip(panels, curves.items(), strict=True):
            _reliability_panel(axes, label, curve, own)
        panels[0].set_ylabel("share correct")
        figure.supxlabel("confidence", fontsize=10)
        said = formatting.listed(
            [f"{formatting.number(curve.ece)} for the {label}" for label, curve in curves.items()]
        )
        caption = (
            "Bars below the diagonal are answers that the network is surer of than it should be."
        )
        images = max(sum(curve.count) for curve in curves.values())
        basis = (
            f"n = {formatting.plural(images, 'test image')}; "
            "the stronger a bar, the more images fall into it."
        )
        return finished(
            figure, "reliability", "calibration", f"Confidence is off by {said}", caption, basis
        )


def teacher_first(curves: Mapping[str, CalibrationCurve]) -> dict[str, CalibrationCurve]:
    """Calibration curves by label, the teachers' before the student's."""
    return dict(sorted(curves.items(), key=lambda entry: not entry[0].startswith("teacher")))


def _reliability_panel(axes: Axes, label: str, curve: CalibrationCurve, own: str) -> None:
    colour = TEACHER if label.startswith("teacher") else own
    total = max(*curve.count, 1)
    for low, high, right, amount in zip(
        curve.edges, curve.edges[1:], curve.accuracy, curve.count, strict=False
    ):
        if right is not None and amount:
            strength = 0.25 + 0.75 * (amount / total) ** 0.5
            axes.bar(
                (low + high) / 2,
                right,
                width=0.92 * (high - low),
                color=colour,
                alpha=strength,
                linewidth=0,
            )
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", yticks=[0, 0.5, 1])
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_title(f"{label} · ECE {formatting.number(curve.ece)}")


def confusion(analysis: RunAnalysis, own: str) -> Figure:
    """Counts by true and predicted class; with few classes as numbers, with many as an image of the
    errors alone.
    """
    counts = np.array(analysis.confusion, dtype=float)
    few = len(counts) <= ANNOTATED_CLASSES
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with house_style("confusion"):
        figure = canvas(5.0, 4.6)
        axes = figure.subplots()
        if few:
            _annotated(axes, counts, shares, analysis.class_names, own)
        else:
            _errors_image(axes, shares, own)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.grid(visible=False)
        caption = (
            "Cells off the diagonal are errors, and a mirrored pair of them is two classes that "
            "look alike."
        )
        if not few:
            caption = (
                "Every spot is an error, the strongest the commonest: the diagonal, where "
                "answers are right, is left out."
            )
        basis = (
            f"n = {formatting.plural(int(counts.sum()), 'test image')}; shade is the share of the "
            f"true class{'' if few else ', root scale'}."
        )
        return finished(
            figure,
            "confusion",
            "confusion",
            _confusion_title(counts, analysis.class_names),
            caption,
            basis,
        )


def _confusion_title(counts: np.ndarray, names: Sequence[str]) -> str:
    wrong = counts - np.diag(np.diag(counts))
    errors = formatting.plural(int(wrong.sum()), "error")
    if wrong.max(initial=0) < 2:
        return f"{errors}, no confusion more than once" if wrong.sum() else "No errors"
    row, column = divmod(int(wrong.argmax()), wrong.shape[1])
    return (
        f"{errors}, most often {names[row]} taken for {names[column]}: {int(wrong[row, column])} "
        "times"
    )


def _rgba(strength: np.ndarray, colour: str) -> np.ndarray:
    """One hue with the given strength as opacity: it reads on light and dark paper. [K,K] ->
    [K,K,4].
    """
    from matplotlib.colors import to_rgb

    return np.dstack([*(np.full_like(strength, part) for part in to_rgb(colour)), strength])


def _annotated(
    axes: Axes, counts: np.ndarray, shares: np.ndarray, names: Sequence[str], own: str
) -> None:
    from matplotlib.patches import Rectangle

    size = len(counts)
    for row in range(size):
        for column in range(size):
            amount = int(counts[row, column])
            if not amount:
                continue
            shade = 0.12 + 0.88 * shares[row, column]
            axes.add_patch(
                Rectangle(
                    (column - 0.47, row - 0.47), 0.94, 0.94, color=own, alpha=shade, linewidth=0
                )
            )
            ink = "white" if shade > 0.85 else INK
            axes.text(
                column,
                row,
                str(amount),
                ha="center",
                va="center",
                fontsize=10 if size <= 12 else 7,
                color=ink,
            )
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    names = [formatting.short(name, 12) for name in names]
    long = max(len(name) for name in names) > 3
    axes.set_xticks(
        range(size), names, rotation=45 if long else 0, ha="right" if long else "center"
    )
    axes.set_yticks(range(size), names)
    for side in axes.spines.values():
        side.set_visible(False)


def _errors_image(axes: Axes, shares: np.ndarray, own: str) -> None:
    errors = shares - np.diag(np.diag(shares))
    axes.imshow(
        _rgba((errors / max(errors.max(), 1e-12)) ** 0.5, own),
        interpolation="nearest",
        aspect="equal",
    )
