"""Sections of a page about a gap and what explains it: a run's report and the page of `kd
analyze-gap` share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from kdcli import formatting, tasks
from kdcli.report.figures.gap import images, largest_classes
from kdcli.report.figures.svg import Figure
from kdcli.report.findings import gap_tables as tables
from kdcli.report.findings.gap import first_raw_pair
from kdcli.report.page.parts import Grid, Section
from kdcli.report.page.text_section import words
from kdcli.results.gap import GapReport, PairReport
from kdcli.results.intervals import Estimate, wilson

NUMBERS = "The numbers"
MOST_CLASSES = 30  # rows of a table by class: more are in the files
SIGNS = (
    "Entropy gap: S(student) − S(teacher). Free-energy gap: F(teacher) − F(student), F = τ log Σ "
    "exp(x/τ) of centred logits."
)


def gap_sections(report: GapReport, plots: Sequence[Figure]) -> Iterator[Section]:
    """Every part that the report has something for. With several teachers: how they compare, then
    each by itself.
    """
    if report.others:
        yield from _several(report, plots)
        return
    for section in (
        gap(report, _of(plots, "gap")),
        words(report),
        pair(report, _of(plots, "pair")),
        curve(report, _of(plots, "curve")),
    ):
        if section:
            yield section
    if section := teacher(report, _of(plots, "teacher")):
        yield section


def _of(plots: Sequence[Figure], section: str) -> tuple[Figure, ...]:
    return tuple(plot for plot in plots if plot.section == section)


def _several(report: GapReport, plots: Sequence[Figure]) -> Iterator[Section]:
    if section := curve(report, _of(plots, "curve")):
        yield section
    compared = Grid.of(
        tables.teacher_rows(report), f"{images(report)}; S / log K and CV_col at τ = 9", words=False
    )
    yield Section(
        "teacher", "What the teachers have to teach", (), (compared,), _of(plots, "teacher")
    )
    for number, one in enumerate(report.reports):
        made = [
            gap(one, _of(plots, f"gap-{number}")),
            words(one),
            pair(one, _of(plots, f"pair-{number}")),
            teacher(one, _of(plots, f"teacher-{number}")),
        ]
        for section in made:
            if section:
                yield replace(
                    section,
                    key=f"{section.key}-{number}",
                    title=f"{one.teacher.label}: {section.title[0].lower()}{section.title[1:]}",
                )


# ---- the gap -------------------------------------------------------------------------------------


def gap(report: GapReport, plots: tuple[Figure, ...]) -> Section | None:
    """How far students' responses are from their teacher's, at each temperature."""
    if not report.pairs:
        return None
    return Section(
        "gap",
        "Gap to the teacher",
        tuple(_gap_text(report)),
        tuple(_gap_grids(report)),
        plots,
        folded=NUMBERS,
    )


def _gap_text(report: GapReport) -> Iterator[str]:
    if found := first_raw_pair(report):
        same = wilson(round(found.agreement * report.n), report.n)
        classes = largest_classes(report, found)
        by_class = f" Classes with the largest entropy gap: {classes}." if classes else ""
        yield (
            f"{'Student' if _one_student(report) else found.student} and teacher give the "
            f"same answer on {formatting.percent(found.agreement, report.n)} "
            f"of {formatting.plural(report.n, tasks.of_data(report.data).sample)} "
            f"({formatting.percent_range(same, report.n)}{formatting.NBSP}%).{by_class}"
        )


def _one_student(report: GapReport) -> bool:
    return len({other.student for other in report.pairs}) == 1


def _gap_grids(report: GapReport) -> Iterator[Grid]:
    intervals = (
        f"{report.split.capitalize()} split of {report.measured_on}, n = "
        f"{formatting.thousands(report.n)} {tasks.of_data(report.data).sample}s; 95 % bootstrap "
        "intervals"
    )
    aligned = any(pair.form == "aligned" for pair in report.pairs)
    forms = (
        ". Aligned: logits as the method's loss sees them; accuracy is the same, certainty is not"
        if aligned
        else ""
    )
    yield _quantity_grid(
        report,
        "entropy",
        f"S, mean entropy in nats; gap: S(student) − S(teacher). {intervals}{forms}.",
        3,
    )
    energy = "F = τ log Σ exp(x/τ) of centred logits, mean; gap: F(teacher) − F(student)"
    yield _quantity_grid(report, "free_energy", f"{energy}. {intervals}.", 3)
    yield _second_order(report)


def _quantity_grid(
    report: GapReport, quantity: Literal["entropy", "free_energy"], caption: str, digits: int
) -> Grid:
    """Teacher, student and gap, one row a temperature, student and form of its logits."""
    rows = []
    for number, temperature in enumerate(report.temperatures):
        known: Estimate = getattr(report.teacher.at[number], quantity)
        for student, found in zip(report.students, report.pairs, strict=True):
            own: Estimate = getattr(student.at[number], quantity)
            between: Estimate = getattr(found.at[number], quantity)
            levels = (
                formatting.number(known.value, digits),
                formatting.number(own.value, digits),
                formatting.signed(between.value, digits),
            )
            reach = (
                f"{formatting.signed(between.low, digits)} to "
                f"{formatting.signed(between.high, digits)}"
            )
            rows.append(
                (f"τ = {formatting.temperature(temperature)}{_form(report, found)}", *levels, reach)
            )
    return Grid(("", "teacher", "student", "gap", "95 % interval"), tuple(rows), caption)


def _form(report: GapReport, found: PairReport) -> str:
    """What tells this row from the others: the student if there are several, and whether its logits
    are aligned.
    """
    return ("" if _one_student(report) else f", {found.student}") + (
        ", aligned" if found.form == "aligned" else ""
    )


def _second_order(report: GapReport) -> Grid:
    rows = []
    for found in report.pairs:
        for at in found.at:
            where = "yes" if at.in_range else "no"
            label = f"τ = {formatting.temperature(at.temperature)}{_form(report, found)}"
            exact, near = (
                formatting.signed(at.entropy.value),
                formatting.signed(at.entropy_second_order),
            )
            rows.append((label, exact, near, formatting.number(at.entropy_ratio, 2), where))
    caption = (
        "Second-order approximation of the entropy gap, (‖v‖² − ‖z‖²) / 2Kτ². It holds where "
        "‖v‖² is far below 2τ²K."
    )
    return Grid(("", "exact", "approximation", "ratio", "in its range"), tuple(rows), caption)


# ---- what explains it ----------------------------------------------------------------------------


def pair(report: GapReport, plots: tuple[Figure, ...]) -> Section | None:
    """Why students answer differently."""
    if not report.explanations:
        return None
    caption = (
        f"{images(report)}; correlations with 95 % bootstrap intervals. w: factor of "
        "distillation on the gradient at the label's logit; "
        "M: class means of centred logits; the temperature is fitted on four fifths and used "
        "on the rest, its ECE has 15 bins."
    )
    title = (
        "Why the student answers differently"
        if len(report.explanations) == 1
        else "Why students answer differently"
    )
    return Section(
        "pair",
        title,
        (),
        (Grid.of(tables.pair_rows(report, report.explanations), caption),),
        plots,
        folded=NUMBERS,
    )


def curve(report: GapReport, plots: tuple[Figure, ...]) -> Section | None:
    """All pairs by size."""
    rows = tables.curve_rows(report)
    if not rows or report.curve is None:
        return None
    text = "Intervals are over images; another seed would move the accuracies too."
    caption = (
        f"{images(report)}; Wilson's 95 % intervals of the student's accuracy; gaps at τ = "
        f"{formatting.temperature(report.curve.temperature)}"
    )
    return Section(
        "curve",
        f"By size of the {report.curve.varies}",
        (text,),
        (Grid.of(rows, caption),),
        plots,
        folded=NUMBERS,
    )


def teacher(report: GapReport, plots: tuple[Figure, ...]) -> Section | None:
    """What a network has to teach, by itself."""
    if report.explanation is None and not plots:
        return None
    return Section(
        "teacher",
        "What the teacher has to teach",
        (),
        tuple(_teacher_grids(report)),
        plots,
        folded=NUMBERS,
    )


def _teacher_grids(report: GapReport) -> Iterator[Grid]:
    found = report.explanation
    if len(report.teacher.at) and not report.students:
        yield _profile(report)
    if found is None:
        return
    if found.hypothesis:
        counts = ", ".join(
            f"{number} {effect}" for effect, number in found.hypothesis.counts.items()
        )
        caption = (
            f"Verdict at τ = {formatting.temperature(found.hypothesis.temperature)}, "
            f"{images(report)}, normal 95 % intervals. Classes: {counts}."
        )
        yield Grid(
            ("", "value", "", "limit"),
            tuple(tables.verdict_rows(found.hypothesis)),
            caption,
            words=True,
        )
        rows = tables.class_rows(report, found)
        left = (
            f"; {len(rows) - 1 - MOST_CLASSES} more in --csv and --json of kd analyze-gap"
            if len(rows) - 1 > MOST_CLASSES
            else ""
        )
        yield Grid.of(
            rows[: MOST_CLASSES + 1], f"By class, most varied first{left}; without intervals."
        )
    if found.similarity:
        caption = (
            "q_y: confidence in the label. V_row: variance of q_k over the wrong classes of "
            "an image; V_col: over the images of a class. "
            "Of similarity labels scaled to sum 1: CV_col, spread over mean in a class, "
            "normal interval; H_sim, entropy / log(K − 1)."
        )
        yield Grid.of(tables.label_rows(found.similarity), f"{images(report)}. {caption}")
    if found.relations and (rows := tables.relation_rows(found.relations)):
        yield Grid.of(
            rows,
            (
                f"{images(report)}. Means over pairs of different classes; intervals by the "
                "jackknife over classes."
            ),
        )
    if geometry := tables.geometry_rows(report, found):
        yield Grid(("", "value", ""), tuple(geometry), "", words=True)


def _profile(report: GapReport) -> Grid:
    rows = [
        (
            formatting.temperature(at.temperature),
            formatting.number(at.entropy.value),
            f"{formatting.number(at.entropy.low)}–{formatting.number(at.entropy.high)}",
            formatting.number(at.free_energy.value, 2),
        )
        for at in report.teacher.at
    ]
    return Grid(
        ("τ", "entropy, nats", "95 % interval", "free energy"),
        tuple(rows),
        f"{images(report)}; bootstrap intervals",
    )
