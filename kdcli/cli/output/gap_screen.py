"""The gap between a teacher and its students on a screen: a table per temperature, then what
explains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdcli import formatting, tasks
from kdcli.cli.output.explanation_screen import (
    curve_lines,
    pair_lines,
    teacher_lines,
    teachers_table,
    verdict_line,
)
from kdcli.cli.text import columns, sparkline

if TYPE_CHECKING:
    from kdcli.results.gap import GapReport, PairAt, PairReport, Response

BARS = 40  # of the sparkline; more classes are thinned evenly
NAMED = 3  # classes that are named
PROFILE_BAR = 24  # columns of the entropy bar in a teacher's profile


def screen_lines(report: GapReport, width: int, *, verbose: bool = False) -> Iterator[str]:
    """All lines of the screen, for so many columns. With several teachers their own tables are for
    those who ask.
    """
    if report.others:
        yield (
            f"  {report.measured_on} {report.split} · n = {formatting.thousands(report.n)} · "
            f"{len(report.reports)} teachers"
        )
        if report.curve is None or verbose:
            yield from teachers_table(report)
        yield from curve_lines(report, width)
    for one in report.reports if verbose or not report.others or not report.curve else ():
        if report.others and not one.students and not verbose:
            continue
        if report.others:
            yield ""
        yield from gap_lines(one, width, verbose=verbose)
    if not report.others:
        yield from curve_lines(report, width)


def gap_lines(report: GapReport, width: int, *, verbose: bool = False) -> Iterator[str]:
    """One teacher, or one teacher and its students."""
    teacher = report.teacher
    about = (
        f"{report.measured_on} {report.split} · n = {formatting.thousands(report.n)} · teacher "
        f"{teacher.network}"
    )
    headline = tasks.of_data(report.data).headline
    level = (
        formatting.percent(teacher.measures.accuracy, report.n)
        if headline.path == "accuracy" and teacher.measures.accuracy is not None
        else "no labels"
        if headline.path == "accuracy"
        else f"{headline.name} {headline.shown(teacher.measures)}"
    )
    yield f"  {about} {level}"
    if not report.students:
        yield from _profile(report)
        yield from teacher_lines(report, every_class=verbose)
        return
    yield from _gaps(report, width)
    yield from pair_lines(report)
    yield from teacher_lines(report, every_class=True) if verbose else verdict_line(report)


def _gaps(report: GapReport, width: int) -> Iterator[str]:
    yield "  G_S = S(student) − S(teacher)      G_F = F(teacher) − F(student)"
    yield "  F = τ log Σ exp(z/τ), logits centred per sample before F and ‖z‖"
    for place, temperature in enumerate(report.temperatures):
        yield ""
        yield from _table(report, place, temperature, width)
        yield from _second_order(report, place, temperature)
    yield ""
    yield from _classes(report)


def _table(report: GapReport, place: int, temperature: float, width: int) -> list[str]:
    head = (
        f"τ = {formatting.temperature(temperature)}",
        "S nats",
        "G_S",
        "F",
        "G_F",
        "‖z‖",
        "accuracy",
        "agrees",
    )
    rows = [head, _row("teacher", report.teacher, place, None, report.n)]
    for response, pair in zip(report.students, report.pairs, strict=True):
        name = "  aligned" if response.form == "aligned" else response.label
        rows.append(_row(name, response, place, pair, report.n))
    return columns(rows, "<>>>>>>>", room=width)


def _row(
    name: str, response: Response, place: int, pair: PairReport | None, n: int
) -> tuple[str, ...]:
    at = response.at[place]
    entropy, energy = (
        formatting.number(at.entropy.value),
        formatting.number(at.free_energy.value, 2),
    )
    norm = formatting.number(response.measures.logit_norm, 1)
    if pair is None:
        return (name, entropy, "", energy, "", norm, "", "")
    gap = pair.at[place]
    # scaling a sample's logits changes no answer, so the aligned form has the raw one's accuracy
    raw = response.form == "raw"
    accuracy, agreement = (
        formatting.percent(value, n) if raw else ""
        for value in (response.measures.accuracy, pair.agreement)
    )
    return (
        name,
        entropy,
        formatting.signed(gap.entropy.value),
        energy,
        formatting.signed(gap.free_energy.value),
        norm,
        accuracy,
        agreement,
    )


def _second_order(report: GapReport, place: int, temperature: float) -> Iterator[str]:
    tau = formatting.temperature(temperature)
    yield f"  second order, G_S ≈ (‖v‖²−‖z‖²)/{'2K' if temperature == 1 else f'(2K·{tau}²)'}:"
    rows = [
        (
            pair.student,
            formatting.signed(pair.at[place].entropy_second_order),
            _validity(pair.at[place]),
        )
        for pair in report.pairs
        if pair.form == "raw"
    ]
    yield from columns(rows, "<><", indent=4)


def _validity(at: PairAt) -> str:
    if not at.in_range:
        return "(outside its range: ‖v‖² ≪ 2τ²K does not hold)"
    return (
        f"(exact / approximate = {formatting.number(at.entropy_ratio, 2)})"
        if at.entropy_ratio is not None
        else ""
    )


def _classes(report: GapReport) -> Iterator[str]:
    from kdcli.report.findings.gap import ranked_classes, usual_temperature

    raw = [pair for pair in report.pairs if pair.form == "raw"]
    for pair in raw:
        ranked = ranked_classes(report, usual_temperature(pair))
        if not ranked:  # the samples have no labels
            continue
        rising = [value for _, value in reversed(ranked)]
        shown = (
            [rising[position * len(rising) // BARS] for position in range(BARS)]
            if len(rising) > BARS
            else rising
        )
        largest = ", ".join(
            f"{name} {formatting.signed(value, 2)}" for name, value in ranked[:NAMED]
        )
        whose = f"{pair.student}  " if len(raw) > 1 else ""
        yield f"  per-class G_S    {whose}{sparkline(shown)}   largest: {largest}"


def _profile(report: GapReport) -> Iterator[str]:
    """A teacher alone: how much it says at each temperature, from one-hot to uniform."""
    import math

    ceiling = math.log(max(len(report.class_names), 2))
    rows = [("τ", "S nats", "95 % interval", "F", "S / log K")]
    for at in report.teacher.at:
        interval = f"{formatting.number(at.entropy.low)}–{formatting.number(at.entropy.high)}"
        share = min(max(at.entropy.value / ceiling, 0.0), 1.0)
        bar = "━" * round(share * PROFILE_BAR)
        shown = f"{formatting.percent(share):>7}  {bar}"
        rows.append(
            (
                formatting.temperature(at.temperature),
                formatting.number(at.entropy.value),
                interval,
                formatting.number(at.free_energy.value, 2),
                shown,
            )
        )
    yield "  response profile: what the teacher says besides its first answer, by temperature"
    yield (
        f"  S: mean entropy, at most log K = {ceiling:.3f} (uniform); F = τ log Σ exp(v/τ), "
        "logits centred per sample"
    )
    yield ""
    yield from columns(rows, ">>>><")
    yield ""
    by_class = sorted(
        zip(report.class_names, report.teacher.at[0].entropy_by_class, strict=True),
        key=lambda pair: pair[1] or 0.0,
        reverse=True,
    )
    named = ", ".join(f"{name} {formatting.number(value, 2)}" for name, value in by_class[:NAMED])
    yield (
        f"  least sure of: {named}   (S at τ = "
        f"{formatting.temperature(report.teacher.at[0].temperature)})"
    )
