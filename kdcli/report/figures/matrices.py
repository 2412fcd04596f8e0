"""Matrices as pictures: how a network relates classes, how two networks differ in it, and how alike
their stages are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli import formatting
from kdcli.report.figures.gap import images
from kdcli.report.figures.palette import THINGS
from kdcli.report.figures.svg import INK, SMALL, Figure, canvas, finished, house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure as Canvas

    from kdcli.results.gap import GapReport
    from kdcli.results.pair import PairExplanation, StageCka
    from kdcli.results.teacher import ClassMatrix, ClassRelations

NAMED = 12  # classes that have their names at the edge
NAME_LENGTH = 12  # of classes at the edge
PANELS = 4  # students in one figure
ALIKE = 0.1  # below this no correlation or cosine is called alike
WRITTEN = 36  # cells of a table that have their numbers
_LOW, _HIGH = THINGS[1], THINGS[0]

Array = np.ndarray[Any, np.dtype[np.float64]]


def _paint(*ends: str) -> Colormap:
    """From a colour over nothing to another, or from nothing to one: zero is the page's own paper,
    light or dark.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    clear = [to_rgba(end, 0.0) for end in ends]
    full = [to_rgba(end, 1.0) for end in ends]
    stops = (
        [(0.0, full[0]), (0.5, clear[0]), (0.5, clear[1]), (1.0, full[1])]
        if len(ends) == 2
        else [(0.0, clear[0]), (1.0, full[0])]
    )
    return LinearSegmentedColormap.from_list("ink", stops)


def _panels(figure: Canvas, count: int) -> list[Axes]:
    """So many square panels, two in a row."""
    columns = min(count, 2)
    panels = list(np.atleast_1d(figure.subplots(-(-count // columns), columns)).ravel())
    for axes in panels[count:]:
        axes.set_visible(False)
    return panels[:count]


def _canvas(count: int, names: Sequence[str] = ()) -> Canvas:
    width, height = ((5.0, 4.1), (5.0, 2.6), (5.0, 5.0), (5.0, 5.0))[count - 1]
    long = len(names) <= NAMED and max(map(len, names), default=0) > 2
    return canvas(width, height + (0.7 if long and count > 1 else 0.0))


def _bar(figure: Canvas, image: Any, reach: float | None = None) -> None:
    """A scale beside all panels; with `reach`, one that says the ends and the middle."""
    ticks = None if reach is None else [-reach, 0, reach]
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.85, ticks=ticks)
    bar.outline.set_linewidth(0.4)
    if reach is not None:
        bar.ax.set_yticklabels([formatting.signed(value, 2) for value in (-reach, 0, reach)])


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    for side in axes.spines.values():
        # cells near zero have no colour: the edge says where the matrix ends
        side.set(visible=True, linewidth=0.4)


def _classes(axes: Axes, names: Sequence[str], *, left: bool = True) -> None:
    """Names at the edges where there are few classes; their number where there are many."""
    if len(names) <= NAMED:
        names = [formatting.short(name, NAME_LENGTH) for name in names]
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 1 else 0)
        axes.set_yticks(range(len(names)), names if left else [""] * len(names))
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{len(names)} classes")


# ---- one network's classes -----------------------------------------------------------------------


def class_relations(report: GapReport) -> Iterator[Figure]:
    """Correlation of the answers at a low and a higher temperature, and beside the cosines of the
    weights (paper 002, figure 1).
    """
    found = report.explanation.relations if report.explanation else None
    if found is None:
        return
    answers = [
        matrix for matrix in found.matrices if matrix.of == "probabilities" and matrix.values
    ]
    weights = [matrix for matrix in found.matrices if matrix.of == "weights" and matrix.values]
    framed = ", and superclasses are framed" if found.superclass else ""
    if answers:
        caption = (
            "Magenta cells are classes that the teacher finds likely together, which "
            f"temperature brings out{framed}."
        )
        unrelated = formatting.signed(-1 / (len(found.order) - 1), 2)
        yield _relations(
            report,
            found,
            answers,
            "class-correlation",
            caption,
            (
                f"{images(report)}; correlation of two answers over images, {unrelated} between "
                "unrelated classes"
            ),
        )
    if weights:
        caption = (
            "Magenta cells are classes with alike weights in the last layer: blocks that the "
            f"answers have too come from there{framed}."
        )
        yield _relations(
            report,
            found,
            weights,
            "weight-cosine",
            caption,
            "Cosine of two rows of the last layer's weight",
        )


def _relations(
    report: GapReport,
    found: ClassRelations,
    matrices: Sequence[ClassMatrix],
    name: str,
    caption: str,
    basis: str,
) -> Figure:
    names = [report.class_names[k] for k in found.order]
    with house_style(name):
        figure = _canvas(len(matrices), names)
        tables = [np.array(matrix.values) for matrix in matrices]
        reach = _reach(tables, matrices)
        for place, (axes, matrix, values) in enumerate(
            zip(_panels(figure, len(matrices)), matrices, tables, strict=True)
        ):
            np.fill_diagonal(values, np.nan)
            image = axes.imshow(
                values, cmap=_paint(_LOW, _HIGH), vmin=-reach, vmax=reach, interpolation="nearest"
            )
            axes.set_title(_title(matrix))
            _bare(axes)
            _classes(axes, names, left=place % 2 == 0)
            _frames(axes, found.superclass)
        _bar(figure, image, reach)
        usual = [matrix for matrix in matrices if matrix.top_k is None] or matrices
        title = _relations_title(names, usual[-1], tables[matrices.index(usual[-1])])
        interval = (
            "; intervals of contrasts are normal, by the jackknife over classes"
            if usual[-1].contrast
            else ""
        )
        return finished(figure, name, "teacher", title, caption, f"{basis}{interval}.")


def _relations_title(names: Sequence[str], matrix: ClassMatrix, values: Array) -> str:
    """What stands out: the contrast of superclasses, or else the two classes that are most
    alike.
    """
    what = (
        "cosine of weights"
        if matrix.of == "weights"
        else f"r at τ = {formatting.temperature(matrix.temperature or 1)}"
    )
    if found := matrix.contrast:
        known = found.interval is not None and (found.interval.low > 0 or found.interval.high < 0)
        levels = (
            f"{what} {formatting.signed(found.within, 2)} within, "
            f"{formatting.signed(found.across, 2)} across"
        )
        return (
            "Superclasses "
            f"{'stand out' if known and found.difference > 0 else 'do not stand out'}: {levels}"
        )
    if not np.isfinite(values).any():
        return f"How alike classes are: {what}"
    row, column = divmod(int(np.nanargmax(values)), values.shape[1])
    value, pair = float(values[row, column]), f"{names[row]} and {names[column]}"
    if value < ALIKE:
        return (
            f"No two classes stand out: {what} is {formatting.signed(value, 2)} at most, for {pair}"
        )
    return f"{pair} are most alike to the teacher: {what} {formatting.signed(value, 2)}"


def _reach(tables: Sequence[Array], matrices: Sequence[ClassMatrix]) -> float:
    """One scale for all panels. Probabilities sum to 1, so unrelated classes have -1/(K-1): that
    must not look like much.
    """
    classes = len(tables[0])
    off = np.concatenate([np.abs(table[~np.eye(classes, dtype=bool)]) for table in tables])
    off = off[np.isfinite(off)] if np.isfinite(off).any() else np.ones(1)
    least = 3 / (classes - 1) if matrices[0].of == "probabilities" else 0.02
    return min(max(float(np.quantile(off, 0.99)), least), 1.0)


def _title(matrix: ClassMatrix) -> str:
    if matrix.of == "weights":
        return "weight rows"
    kept = f", largest {matrix.top_k}" if matrix.top_k else ""
    return f"τ = {formatting.temperature(matrix.temperature or 1)}{kept}"


def _frames(axes: Axes, superclass: Sequence[int] | None) -> None:
    """A frame around each superclass on the diagonal."""
    if superclass is None:
        return
    from matplotlib.patches import Rectangle

    starts = [
        0,
        *(
            place
            for place in range(1, len(superclass))
            if superclass[place] != superclass[place - 1]
        ),
        len(superclass),
    ]
    for start, end in pairwise(starts):
        axes.add_patch(
            Rectangle(
                (start - 0.5, start - 0.5),
                end - start,
                end - start,
                fill=False,
                edgecolor=INK,
                linewidth=0.7,
            )
        )


# ---- two networks --------------------------------------------------------------------------------


def logit_difference(report: GapReport) -> Iterator[Figure]:
    """|M(teacher) - M(student)| of class-mean logits, all students on one scale (paper 003, figure
    6).
    """
    found = [
        (pair, np.array(values)) for pair in report.explanations for values in _differences(pair)
    ][:PANELS]
    if not found:
        return
    from matplotlib.colors import PowerNorm

    order = (
        list(report.explanation.relations.order)
        if report.explanation and report.explanation.relations
        else None
    )
    tables = [values[np.ix_(order, order)] if order else values for _, values in found]
    names = [report.class_names[k] for k in order or range(len(report.class_names))]
    top = max(float(np.quantile(table, 0.995)) for table in tables) or 1.0
    with house_style("logit-difference"):
        figure = _canvas(len(found), names)
        for place, (axes, (pair, _), table) in enumerate(
            zip(_panels(figure, len(found)), found, tables, strict=True)
        ):
            image = axes.imshow(
                table, cmap=_paint(_HIGH), norm=PowerNorm(0.5, 0, top), interpolation="nearest"
            )
            mean = f"mean {formatting.number(float(table.mean()), 2)}"
            axes.set_title(
                mean if len(found) == 1 else f"{formatting.short(pair.student, 20)}\n{mean}"
            )
            _bare(axes)
            _classes(axes, names, left=place % 2 == 0)
            axes.set_ylabel("true class" if place % 2 == 0 else "")
        _bar(figure, image)
        caption = (
            "Strong cells are classes (column) that the student answers unlike its teacher; a "
            "strong diagonal alone is one of scale."
        )
        basis = (
            f"{images(report)}; |M(v) − M(z)| of logits centred per image, means over the images "
            "of a class, without intervals."
        )
        yield finished(
            figure, "logit-difference", "pair", _difference_title(report), caption, basis
        )


def _difference_title(report: GapReport) -> str:
    if len(report.explanations) != 1:
        return "Where students' mean logits are not their teacher's"
    found = report.explanations[0].differences[0]
    row, column = (report.class_names[k] for k in found.place)
    where = f"class {row}" if row == column else f"{column} on images of {row}"
    return (
        f"Mean logits differ by {formatting.number(found.mean, 2)}, most for {where}: "
        f"{formatting.number(found.largest, 1)}"
    )


def _differences(pair: PairExplanation) -> Iterator[Any]:
    for found in pair.differences:
        if found.of == "class_mean" and found.difference is not None:
            yield found.difference


def cka(report: GapReport) -> Iterator[Figure]:
    """Linear CKA of every stage of the student with every stage of the teacher."""
    found = [(pair.student, pair.cka) for pair in report.explanations if pair.cka][:PANELS]
    if not found:
        return
    with house_style("cka"):
        figure = _canvas(len(found))
        for axes, (label, one) in zip(_panels(figure, len(found)), found, strict=True):
            image = _stages(axes, one)
            if len(found) > 1:
                axes.set_title(formatting.short(label, 20))
        _bar(figure, image)
        caption = (
            "A strong diagonal means that the student represents images as the teacher does at "
            "the same depth."
        )
        batches = found[0][1].batches
        how = (
            f"unbiased, over {formatting.plural(batches, 'minibatch')}".replace(
                "minibatchs", "minibatches"
            )
            if batches
            else "biased"
        )
        basis = (
            f"n = {formatting.plural(found[0][1].n, f'{report.split} image')}; linear CKA, "
            f"{how}; 1 "
            "is equal up to rotation and scale."
        )
        yield finished(figure, "cka", "pair", _cka_title(found), caption, basis)


def _cka_title(found: Sequence[tuple[str, StageCka]]) -> str:
    both = [
        (one.values[one.student_taps.index(tap)][one.teacher_taps.index(tap)], tap)
        for _, one in found
        for tap in one.student_taps
        if tap in one.teacher_taps
    ]
    if len(found) > 1 or not both:
        return "How alike the stages of student and teacher are"
    value, tap = min(both)
    return f"Student and teacher are least alike at {tap}: CKA {formatting.number(value, 2)}"


def _stages(axes: Axes, found: StageCka) -> Any:
    values = np.array(found.values)
    image = axes.imshow(values, cmap=_paint(_HIGH), vmin=0, vmax=1)
    axes.set_xticks(range(len(found.teacher_taps)), found.teacher_taps, rotation=45, ha="right")
    axes.set_yticks(range(len(found.student_taps)), found.student_taps)
    axes.set_xlabel("teacher")
    axes.set_ylabel("student")
    _bare(axes)
    if values.size <= WRITTEN:
        for row, column in np.ndindex(values.shape):
            value = float(values[row, column])
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=SMALL,
                color="#ffffff" if value > 0.9 else INK,
            )
    return image
