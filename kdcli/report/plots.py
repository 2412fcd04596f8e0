"""The figures of a run: curves, accuracy beside its teacher, calibration and confusion.

Those of the gap are in gap_plots, those of what was probed along training in probe_plots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdcli.report import gap_plots, probe_plots, words
from kdcli.report.run import Epoch, Run
from kdcli.report.svg import INK, MUTED, STUDENT, TEACHER, TERMS, Plot, canvas, epoch_axis, house_style, legend, to_svg
from kdcli.results import CalibrationCurve, Measures, RunAnalysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED_CLASSES = 20  # above this a confusion matrix has no room for counts and names
LOG_RANGE = 30.0  # a loss that spans more than this factor is drawn on a log axis


def draw(run: Run) -> tuple[Plot, ...]:
    """All figures that the run has data for, in the order of the report."""
    return tuple(_figures(run))


def _figures(run: Run) -> Iterator[Plot]:
    if run.summary and len(bars := _measured(run)) > 1:
        yield accuracy_levels(bars)
    if len(run.epochs) > 1:
        yield losses(run.epochs)
        yield accuracy_curves(run.epochs, _teacher_level(run))
        yield learning_rate(run.epochs)
    yield from probe_plots.draw(run)
    if run.analysis:
        if run.analysis.gap:
            yield from gap_plots.draw(run.analysis.gap)
        if any(any(curve.count) for curve in run.analysis.calibration.values()):
            yield reliability(run.analysis)
        if run.analysis.confusion:
            yield confusion(run.analysis)


def _measured(run: Run) -> list[tuple[str, Measures]]:
    """What stands on the accuracy axis: teachers, the label-only baseline, and the network itself."""
    if run.summary is None:
        return []
    teachers = [(f"teacher\n{teacher.architecture}", teacher.test) for teacher in run.summary.teachers if teacher.test]
    own = "student" if run.command == "distill" else "network"
    alone = [("labels only\n" + run.baseline.network, run.baseline.test)] if run.baseline else []
    return [*teachers, *alone, (f"{own}\n{run.summary.network}", run.summary.test)]


def _teacher_level(run: Run) -> float | None:
    tests = [teacher.test.accuracy for teacher in run.summary.teachers if teacher.test] if run.summary else []
    return max(tests, default=None)


# ---- accuracy --------------------------------------------------------------------------------------------------------


def accuracy_levels(measured: Sequence[tuple[str, Measures]]) -> Plot:
    """Accuracies with their 95 % intervals on one axis; the last one is the run's own."""
    with house_style("accuracy"):
        figure = canvas(5.0, 0.7 + 0.5 * len(measured))
        axes = figure.subplots()
        for row, (label, measures) in enumerate(reversed(measured)):
            colour = STUDENT if row == 0 else TEACHER if label.startswith("teacher") else MUTED
            interval = measures.accuracy_interval
            axes.plot([100 * interval.low, 100 * interval.high], [row, row], color=colour, linewidth=4, alpha=0.4)
            axes.plot(100 * measures.accuracy, row, "o", color=colour, markersize=8)
            axes.annotate(
                words.percent(measures.accuracy, measures.n),
                (100 * measures.accuracy, row),
                (0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
            )
        axes.set_yticks(range(len(measured)), [label for label, _ in reversed(measured)])
        axes.set_ylim(-0.6, len(measured) - 0.3)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("test accuracy, %")
        n = measured[-1][1].n
        caption = f"Dots are accuracies on {words.plural(n, 'test image')}, bars their 95 % intervals (Wilson)."
        return Plot("accuracy", "accuracy", "Test accuracy", caption, to_svg(figure))


# ---- curves ----------------------------------------------------------------------------------------------------------


def _starts(epochs: Sequence[Epoch]) -> list[int]:
    """Where a stage begins: positions in `epochs`."""
    return [position for position, epoch in enumerate(epochs) if position == 0 or epoch.stage != epochs[position - 1].stage]


def _broken(epochs: Sequence[Epoch], values: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Epochs from 1 on and their values, with a gap where a stage begins: no line leads from one network to the next."""
    breaks = _starts(epochs)[1:]
    position = np.arange(1.0, len(epochs) + 1)
    return np.insert(position, breaks, np.nan), np.insert(np.asarray(values, dtype=float), breaks, np.nan)


def _epoch_axis(axes: Axes, epochs: Sequence[Epoch]) -> None:
    # an epoch stands at its end, so a stage begins half an epoch before its first
    starts = _starts(epochs)
    epoch_axis(axes, [(start + 0.5, epochs[start].stage) for start in starts] if len(starts) > 1 else ())


def losses(epochs: Sequence[Epoch]) -> Plot:
    """Each term of the loss per epoch: means over its images, as weighted in the sum."""
    terms = list(dict.fromkeys(name for epoch in epochs for name in epoch.losses))
    with house_style("losses"):
        figure = canvas()
        axes = figure.subplots()
        _epoch_axis(axes, epochs)
        values = {term: np.array([epoch.losses.get(term, np.nan) for epoch in epochs], dtype=float) for term in terms}
        for term, colour in zip(terms, TERMS * (1 + len(terms) // len(TERMS)), strict=False):
            axes.plot(*_broken(epochs, values[term]), color=colour, label=term)
        logarithmic = _wide_range(np.concatenate(list(values.values()))) if values else False
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("loss (log scale)" if logarithmic else "loss")
        legend(axes)
        caption = "Each term as it is weighted in the sum, mean over an epoch's training images."
        return Plot("losses", "curves", "Loss terms", caption, to_svg(figure))


def _wide_range(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return finite.size > 0 and bool(finite.min() > 0) and bool(finite.max() > LOG_RANGE * finite.min())


def accuracy_curves(epochs: Sequence[Epoch], teacher: float | None = None) -> Plot:
    """Accuracy per epoch on training images and on the held-out part, with the teacher's test accuracy as a level."""
    with house_style("accuracy-curves"):
        figure = canvas()
        axes = figure.subplots()
        _epoch_axis(axes, epochs)
        train = [100 * epoch.train_accuracy for epoch in epochs]
        axes.plot(*_broken(epochs, train), color=MUTED, linewidth=1.4, label="train")
        held_out = [epoch.val for epoch in epochs]
        if any(held_out):
            validation = [100 * val.accuracy if val else np.nan for val in held_out]
            axes.plot(*_broken(epochs, validation), color=STUDENT, label="validation")
        if teacher is not None:
            axes.axhline(100 * teacher, color=TEACHER, linestyle="--", linewidth=1.2, label="teacher, test")
        axes.set_ylabel("accuracy, %")
        legend(axes)
        sizes = sorted({val.n for val in held_out if val})
        held = f" Validation: {words.plural(sizes[-1], 'image')} held out of the training set." if sizes else " Nothing is held out."
        caption = "Training accuracy is a mean over the epoch, while the weights change." + held
        return Plot("accuracy-curves", "curves", "Accuracy per epoch", caption, to_svg(figure))


def learning_rate(epochs: Sequence[Epoch]) -> Plot:
    """The learning rate at the end of each epoch."""
    with house_style("learning-rate"):
        figure = canvas(5.0, 1.7)
        axes = figure.subplots()
        _epoch_axis(axes, epochs)
        axes.plot(*_broken(epochs, [epoch.lr for epoch in epochs]), color=STUDENT)
        axes.set_ylabel("learning rate")
        axes.set_ylim(bottom=0)
        return Plot("learning-rate", "curves", "Learning rate", "At the end of each epoch.", to_svg(figure))


# ---- calibration and confusion ---------------------------------------------------------------------------------------


def reliability(analysis: RunAnalysis) -> Plot:
    """Reliability diagrams side by side: the share that is right among predictions of like confidence."""
    curves = teacher_first(analysis.calibration)
    with house_style("reliability"):
        figure = canvas(5.0, 2.9)
        panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for axes, (label, curve) in zip(panels, curves.items(), strict=True):
            _reliability_panel(axes, label, curve)
        panels[0].set_ylabel("share correct")
        figure.supxlabel("confidence", fontsize=9)
        caption = (
            "Bars on the diagonal mean that confidence can be taken at its word; below it the network is over-confident. "
            "The strength of a bar shows how many images fall into it."
        )
        return Plot("reliability", "calibration", "Reliability", caption, to_svg(figure))


def teacher_first(curves: Mapping[str, CalibrationCurve]) -> dict[str, CalibrationCurve]:
    """Calibration curves by label, the teachers' before the student's."""
    return dict(sorted(curves.items(), key=lambda entry: not entry[0].startswith("teacher")))


def _reliability_panel(axes: Axes, label: str, curve: CalibrationCurve) -> None:
    colour = TEACHER if label.startswith("teacher") else STUDENT
    total = max(*curve.count, 1)
    for low, high, right, amount in zip(curve.edges, curve.edges[1:], curve.accuracy, curve.count, strict=False):
        if right is not None and amount:
            strength = 0.25 + 0.75 * (amount / total) ** 0.5
            axes.bar((low + high) / 2, right, width=0.92 * (high - low), color=colour, alpha=strength, linewidth=0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_title(f"{label} · ECE {words.number(curve.ece)}")


def confusion(analysis: RunAnalysis) -> Plot:
    """Counts by true and predicted class; with few classes as numbers, with many as an image of the errors alone."""
    counts = np.array(analysis.confusion, dtype=float)
    few = len(counts) <= ANNOTATED_CLASSES
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with house_style("confusion"):
        figure = canvas(5.0, 4.6)
        axes = figure.subplots()
        if few:
            _annotated(axes, counts, shares, analysis.class_names)
        else:
            _errors_image(axes, shares)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.grid(visible=False)
        errors = int(counts.sum() - np.trace(counts))
        caption = f"{words.plural(errors, 'error')} on {words.plural(int(counts.sum()), 'test image')}; "
        caption += (
            "shade is the share of the true class." if few else "the diagonal is left out; the darkest cell is the commonest confusion."
        )
        return Plot("confusion", "confusion", "Confusion matrix", caption, to_svg(figure))


def _rgba(strength: np.ndarray) -> np.ndarray:
    """One hue with the given strength as opacity: it reads on light and dark paper. [K,K] -> [K,K,4]."""
    from matplotlib.colors import to_rgb

    return np.dstack([*(np.full_like(strength, part) for part in to_rgb(STUDENT)), strength])


def _annotated(axes: Axes, counts: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    size = len(counts)
    for row in range(size):
        for column in range(size):
            amount = int(counts[row, column])
            if not amount:
                continue
            shade = 0.12 + 0.88 * shares[row, column]
            axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, color=STUDENT, alpha=shade, linewidth=0))
            ink = "white" if shade > 0.55 else INK
            axes.text(column, row, str(amount), ha="center", va="center", fontsize=9 if size <= 12 else 6.5, color=ink)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    long = max(len(name) for name in names) > 3
    axes.set_xticks(range(size), names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(size), names)
    for side in axes.spines.values():
        side.set_visible(False)


def _errors_image(axes: Axes, shares: np.ndarray) -> None:
    errors = shares - np.diag(np.diag(shares))
    axes.imshow(_rgba((errors / max(errors.max(), 1e-12)) ** 0.5), interpolation="nearest", aspect="equal")
