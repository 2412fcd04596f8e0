"""Matrices as pictures: how a network relates classes, how two networks differ in it, and how alike their stages are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.report import words
from kdcli.report.pictures import Picture, picture
from kdcli.report.svg import INK, canvas, house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kdcli.comparisons import PairExplanation, StageCka
    from kdcli.explanations import ClassMatrix, ClassRelations
    from kdcli.results import GapReport

NAMED = 12  # classes that have their names at the edge
PANELS = 4  # students in one figure
_DIVERGING, _RISING = "RdBu_r", "viridis"

Array = np.ndarray[Any, np.dtype[np.float64]]


def _panels(figure: Figure, count: int) -> list[Axes]:
    """So many square panels: up to three in a row, four in a square."""
    columns = count if count <= 3 else 2
    panels = list(np.atleast_1d(figure.subplots(-(-count // columns), columns)).ravel())
    for axes in panels[count:]:
        axes.set_visible(False)
    return panels[:count]


def _canvas(count: int) -> Figure:
    return canvas(*((3.5, 3.0), (5.6, 2.6), (6.2, 2.2), (5.6, 5.0))[count - 1])


def _bar(figure: Figure, image: Any, reach: float | None = None) -> None:
    """A scale beside all panels; with `reach`, one that says the ends and the middle."""
    ticks = None if reach is None else [-reach, 0, reach]
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.85, ticks=ticks)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5)
    if reach is not None:
        bar.ax.set_yticklabels([words.signed(value, 2) for value in (-reach, 0, reach)])


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _classes(axes: Axes, names: Sequence[str]) -> None:
    """Names at the edges where there are few classes; their number where there are many."""
    if len(names) <= NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(len(names)), names)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{len(names)} classes")


# ---- one network's classes -------------------------------------------------------------------------------------------


def class_relations(report: GapReport) -> Iterator[Picture]:
    """Correlation of the answers at a low and a higher temperature, and beside the cosines of the weights (paper 002, figure 1)."""
    found = report.explanation.relations if report.explanation else None
    if found is None:
        return
    answers = [matrix for matrix in found.matrices if matrix.of == "probabilities" and matrix.values]
    weights = [matrix for matrix in found.matrices if matrix.of == "weights" and matrix.values]
    ordered = "; classes are in the order of their superclasses, framed" if found.superclass else ""
    if answers:
        caption = f"Red blocks are classes that the teacher finds likely together, and temperature brings them out{ordered}."
        yield _relations(report, found, answers, "class-correlation", "Correlation of the answers over images", caption)
    if weights:
        caption = f"Red pairs have alike weights in the last layer: where the answers show the same blocks, they come from there{ordered}."
        yield _relations(report, found, weights, "weight-cosine", "Cosines of the last layer's weights", caption)


def _relations(report: GapReport, found: ClassRelations, matrices: Sequence[ClassMatrix], name: str, title: str, caption: str) -> Picture:
    names = [report.class_names[k] for k in found.order]
    with house_style(name):
        figure = _canvas(len(matrices))
        tables = [np.array(matrix.values) for matrix in matrices]
        reach = _reach(tables, matrices)
        for axes, matrix, values in zip(_panels(figure, len(matrices)), matrices, tables, strict=True):
            np.fill_diagonal(values, np.nan)
            image = axes.imshow(values, cmap=_DIVERGING, vmin=-reach, vmax=reach, interpolation="nearest")
            axes.set_title(_title(matrix), fontsize=9)
            _bare(axes)
            _classes(axes, names)
            _frames(axes, found.superclass)
        _bar(figure, image, reach)
        return picture(figure, name, "relations", title, caption)


def _reach(tables: Sequence[Array], matrices: Sequence[ClassMatrix]) -> float:
    """One scale for all panels. Probabilities sum to 1, so unrelated classes have -1/(K-1): that must not look like much."""
    classes = len(tables[0])
    off = np.concatenate([np.abs(table[~np.eye(classes, dtype=bool)]) for table in tables])
    least = 3 / (classes - 1) if matrices[0].of == "probabilities" else 0.02
    return min(max(float(np.quantile(off, 0.99)), least), 1.0)


def _title(matrix: ClassMatrix) -> str:
    if matrix.of == "weights":
        return "weight rows"
    kept = f", largest {matrix.top_k}" if matrix.top_k else ""
    return f"τ = {words.temperature(matrix.temperature or 1)}{kept}"


def _frames(axes: Axes, superclass: Sequence[int] | None) -> None:
    """A frame around each superclass on the diagonal."""
    if superclass is None:
        return
    from matplotlib.patches import Rectangle

    starts = [0, *(place for place in range(1, len(superclass)) if superclass[place] != superclass[place - 1]), len(superclass)]
    for start, end in pairwise(starts):
        axes.add_patch(Rectangle((start - 0.5, start - 0.5), end - start, end - start, fill=False, edgecolor=INK, linewidth=0.7))


# ---- two networks ----------------------------------------------------------------------------------------------------


def logit_difference(report: GapReport) -> Iterator[Picture]:
    """|M(teacher) - M(student)| of class-mean logits, all students on one scale (paper 003, figure 6)."""
    found = [(pair, np.array(values)) for pair in report.explanations for values in _differences(pair)][:PANELS]
    if not found:
        return
    from matplotlib.colors import PowerNorm

    order = list(report.explanation.relations.order) if report.explanation and report.explanation.relations else None
    tables = [values[np.ix_(order, order)] if order else values for _, values in found]
    names = [report.class_names[k] for k in order or range(len(report.class_names))]
    top = max(float(np.quantile(table, 0.995)) for table in tables) or 1.0
    with house_style("logit-difference"):
        figure = _canvas(len(found))
        for axes, (pair, _), table in zip(_panels(figure, len(found)), found, tables, strict=True):
            image = axes.imshow(table, cmap=_RISING, norm=PowerNorm(0.5, 0, top), interpolation="nearest")
            axes.set_title(f"{pair.student}, mean {words.number(float(table.mean()), 2)}", fontsize=9)
            _bare(axes)
            _classes(axes, names)
        _bar(figure, image)
        caption = (
            "Dark: the student's mean logits of a class (row the true one) are the teacher's; bright cells are what it answers "
            "differently, and a bright diagonal is a difference of scale."
        )
        yield picture(figure, "logit-difference", "pair", "Difference of class-mean logits", caption)


def _differences(pair: PairExplanation) -> Iterator[Any]:
    for found in pair.differences:
        if found.of == "class_mean" and found.difference is not None:
            yield found.difference


def cka(report: GapReport) -> Iterator[Picture]:
    """Linear CKA of every stage of the student with every stage of the teacher."""
    found = [(pair.student, pair.cka) for pair in report.explanations if pair.cka][:PANELS]
    if not found:
        return
    with house_style("cka"):
        figure = _canvas(len(found))
        for axes, (label, one) in zip(_panels(figure, len(found)), found, strict=True):
            image = _stages(axes, one)
            axes.set_title(label, fontsize=9)
        _bar(figure, image)
        caption = (
            "A bright diagonal: the student represents images as the teacher does at the same depth; 1 is equal up to rotation and scale."
        )
        yield picture(figure, "cka", "pair", "Likeness of stages, linear CKA", caption)


def _stages(axes: Axes, found: StageCka) -> Any:
    values = np.array(found.values)
    image = axes.imshow(values, cmap=_RISING, vmin=0, vmax=1)
    axes.set_xticks(range(len(found.teacher_taps)), found.teacher_taps, rotation=45, ha="right")
    axes.set_yticks(range(len(found.student_taps)), found.student_taps)
    axes.set_xlabel("teacher")
    axes.set_ylabel("student")
    _bare(axes)
    if values.size <= 36:
        for row, column in np.ndindex(values.shape):
            value = float(values[row, column])
            colour = "#0d1117" if value > 0.6 else "#ffffff"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    return image
