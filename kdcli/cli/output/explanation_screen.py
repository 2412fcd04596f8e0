"""The screen of what explains a gap: the teacher by itself, then each student beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdcli import formatting
from kdcli.cli.text import columns, shorten
from kdcli.report.findings import gap_tables as tables

if TYPE_CHECKING:
    from kdcli.results.gap import GapReport
    from kdcli.results.teacher import ClassRelations, Hypothesis, TeacherExplanation

CLASSES = 5  # rows of the table by class, unless all are asked for
ROOM = 20  # columns of a second name in a row
SIDE_BY_SIDE = 2  # students in one table
DEEP = ("t-SNE", "silhouette", "CKA", "latency")


# ---- the teacher alone ---------------------------------------------------------------------------


def teacher_lines(report: GapReport, *, every_class: bool) -> Iterator[str]:
    """Everything about the teacher that its response profile does not say."""
    found = report.explanation
    if found is None:
        return
    if found.similarity:
        yield ""
        yield "  confidence label q_y and similarity labels q_k, k ≠ y, of q = softmax(v/τ)"
        yield from columns(tables.label_rows(found.similarity), ">>>>>>>", indent=4)
        yield (
            "  V_row: variance of q_k over the wrong classes of an image; V_col: over the images "
            "of a class"
        )
        yield (
            "  similarity labels scaled to sum 1: CV_col, spread over mean in a class; H_sim, "
            "entropy / log(K−1)"
        )
    if found.hypothesis:
        yield ""
        yield from _verdict(found.hypothesis)
        yield from _by_class(report, found, found.hypothesis, every_class=every_class)
    if found.relations:
        yield from _relations(found.relations)
    if rows := tables.geometry_rows(report, found):
        yield ""
        yield from columns(rows, "<<<")


def verdict_line(report: GapReport) -> Iterator[str]:
    """The verdict alone, for a screen that is about students."""
    found = report.explanation.hypothesis if report.explanation else None
    if found:
        e, c = formatting.number(found.relative_entropy.value), formatting.number(found.column_cv)
        tau = formatting.temperature(found.temperature)
        yield (
            f"  teacher alone    {found.effect} at τ = {tau}: S / log K {e}, CV_col {c}   (why: -v)"
        )


def _verdict(found: Hypothesis) -> Iterator[str]:
    tau = formatting.temperature(found.temperature)
    yield f"  distilling it amounts to {found.effect} at τ = {tau}   ({tables.settled(found)})"
    yield from columns(tables.verdict_rows(found), "<<<<", indent=4)
    yield (
        "  varied and soft: distillation; constant: label smoothing; all else: regularisation "
        "(limits ours)"
    )


def _by_class(
    report: GapReport, found: TeacherExplanation, verdict: Hypothesis, *, every_class: bool
) -> Iterator[str]:
    counts = ", ".join(f"{number} {effect}" for effect, number in verdict.counts.items())
    rows = tables.class_rows(report, found)
    shown = rows if every_class else rows[: CLASSES + 1]
    more = "" if len(shown) == len(rows) else "; largest CV_col first, all with -v"
    yield f"  by class: {counts}{more}"
    yield from columns(shown, "<>>>><<", indent=4)


def _relations(found: ClassRelations) -> Iterator[str]:
    rows = tables.relation_rows(found)
    if not rows:
        return
    grouped = len(rows[0]) > 2
    yield ""
    yield "  how it relates classes: means over pairs of two" + (
        ", within superclasses and across" if grouped else ""
    )
    yield from columns(rows, "<>>><" if grouped else "<<", indent=4)


# ---- pairs ---------------------------------------------------------------------------------------


def pair_lines(report: GapReport) -> Iterator[str]:
    """A table of what explains the gaps, a column a student."""
    found = report.explanations
    for first in range(0, len(found), SIDE_BY_SIDE):
        yield ""
        yield from columns(tables.pair_rows(report, found[first : first + SIDE_BY_SIDE]))
    if found:
        yield (
            "  w: factor of distillation on the gradient at the label's logit; M: class means of "
            "centred logits"
        )


# ---- several teachers or students, and what it took ----------------------------------------------


def curve_lines(report: GapReport, width: int) -> Iterator[str]:
    """All pairs as one table, by capacity."""
    curve = report.curve
    if curve is None:
        return
    side, other = (curve.varies, "student" if curve.varies == "teacher" else "teacher")
    rows = [
        (row[0], shorten(row[1], ROOM) if place else row[1], *row[2:])
        for place, row in enumerate(tables.curve_rows(report))
    ]
    partners = {row.other for row in curve.rows}
    yield ""
    about = f"  by the {side}'s parameters, τ = {formatting.temperature(curve.temperature)}"
    if len(partners) == 1:
        yield f"{about} · {other} {partners.pop()}"
        yield from columns([(row[0], *row[2:]) for row in rows], "<>>>>>>>", room=min(width, 100))
    else:
        yield about
        yield from columns(rows, "<<>>>>>>>", room=min(width, 100))
    yield f"  {tables.said_of_curve(report)}"


def teachers_table(report: GapReport) -> Iterator[str]:
    """Several teachers without students: what each has to teach."""
    yield from columns(tables.teacher_rows(report), "<>>>>><", room=100)


def time_line(report: GapReport) -> str:
    """The time of the networks, of the analysis, and of the optional parts."""
    networks = report.seconds.get("networks", 0.0)
    deep = sum(report.seconds.get(name, 0.0) for name in DEEP)
    rest = sum(report.seconds.values()) - networks - deep
    apart = f" · --deep {formatting.duration(deep)}" if deep else ""
    return (
        f"  time     networks {formatting.duration(networks)} · analysis "
        f"{formatting.duration(rest)}{apart}"
    )
