"""report.html: one file, no script, nothing fetched; light and dark; readable on a telephone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from kdcli import __version__, formatting, tasks
from kdcli.report.figures.palette import MUTED, TEACHERS
from kdcli.report.figures.run import own_colour
from kdcli.report.findings.run import (
    best_teacher,
    gate_sentence,
    interval_of,
    lead,
    missing_baseline,
    missing_names,
    provenance,
    used_gap,
    verdict,
)
from kdcli.report.page.parts import Section
from kdcli.results.gap import GapAt
from kdcli.results.measures import GateResult, Measures, share_of
from kdcli.results.run import RunResult, TeacherSummary
from kdcli.runs.read import Run


@dataclass(frozen=True, slots=True)
class Tile:
    """One number that the eye should meet first, what it is and what it rests on. colour: of the
    network whose it is, as in the figures.
    """

    value: str
    label: str
    note: str
    colour: str = ""


def to_html(run: Run, parts: Sequence[Section]) -> str:
    """The report as one HTML document; parts: what `sections` made of the run."""
    return page(
        name=run.name,
        headline=verdict(run),
        subtitle=_subtitle(run),
        tiles=tiles(run) if run.summary else [],
        lead=lead(run),
        command=missing_baseline(run),
        rests_on="",
        gates=run.summary.gates if run.summary else (),
        warnings=(*run.damage, *_said(run), *_left_out(run)),
        sections=parts,
        footer=(
            f"Made by kd {run.environment.get('kdcli', __version__)} from the files of this run."
        ),
    )


def page(*, gates: Sequence[GateResult], **content: Any) -> str:
    """A page that begins with its verdict. content: what page.html.jinja names."""
    return render(
        "page.html.jinja", gates=[(gate.passed, gate_sentence(gate)) for gate in gates], **content
    )


def render(template: str, **content: Any) -> str:
    """A page from one of our templates; everything that is not Markup is escaped."""
    loader = PackageLoader("kdcli.report.page")
    pages = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["toml"] = highlighted
    pages.filters["kept"] = formatting.kept
    return pages.get_template(template).render(**content)


def _subtitle(run: Run) -> str:
    if run.summary is None:
        return f"kd {run.command}"
    return f"kd {run.command} · {run.summary.method} · {provenance(run.summary)}"


def _said(run: Run) -> tuple[str, ...]:
    return (*run.summary.warnings, *run.summary.notes) if run.summary else ()


def _left_out(run: Run) -> tuple[str, ...]:
    """What could not be explained, and why."""
    return run.analysis.gap.warnings if run.analysis and run.analysis.gap else ()


def _headline_tile(summary: RunResult, measures: Measures, label: str, colour: str) -> Tile:
    """The headline measure of the run's task; an accuracy with its interval."""
    headline = tasks.of_data(summary.data).headline
    if measures.accuracy is None and measures.agreement is None:
        return Tile(formatting.MISSING, label, "no labels")
    if measures.accuracy is not None and headline.path == "accuracy":
        return accuracy_tile(measures, label, colour)
    n = f"{headline.called(measures)}, n = {formatting.thousands(measures.n)}"
    return Tile(headline.shown(measures), label, n, colour)


def accuracy_tile(measures: Measures, label: str, colour: str) -> Tile:
    """An accuracy with its interval and n."""
    reach = (
        f"{formatting.percent_range(measures.accuracy_interval, measures.n)}{formatting.NBSP}%, "
        "n = "
        f"{formatting.thousands(measures.n)}"
    )
    return Tile(formatting.percent(measures.accuracy, measures.n), label, reach, colour)


def tiles(run: Run) -> list[Tile]:
    """Accuracy beside the teacher's and that of labels alone, certainty, calibration and size: what
    there is of them.
    """
    summary = run.summary
    assert summary is not None
    teacher, own = best_teacher(summary), "student" if summary.command == "distill" else "network"
    found = [_headline_tile(summary, summary.test, f"{own} {summary.network}", own_colour(run))]
    if teacher and teacher.test and share_of(teacher.test) is not None:
        found.append(
            _headline_tile(
                summary,
                teacher.test,
                f"teacher {teacher.architecture}",
                _colour_of(summary, teacher),
            )
        )
    if run.baseline:
        found.append(_headline_tile(summary, run.baseline.test, "labels only", MUTED))
    if summary.excluded and summary.excluded.accuracy_interval:
        missing = summary.excluded
        reach = (
            f"{formatting.percent_range(summary.excluded.accuracy_interval, missing.n)}"
            f"{formatting.NBSP}%, "
            f"n = {formatting.thousands(missing.n)}"
        )
        found.insert(
            1,
            Tile(
                formatting.percent(missing.accuracy, missing.n),
                f"on missing {missing_names(missing)}",
                reach,
            ),
        )
    if gap := used_gap(run):
        found.append(Tile(formatting.signed(gap.entropy), "entropy gap, nats", _gap_note(run, gap)))
    if summary.test.ece is not None:
        found.append(
            Tile(
                formatting.number(summary.test.ece),
                "ECE",
                f"15 bins, n = {formatting.thousands(summary.test.n)}",
            )
        )
    size_note = (
        f"teacher {formatting.count(teacher.parameters or None)}" if teacher else summary.network
    )
    found.append(Tile(formatting.count(summary.parameters), "parameters", size_note))
    return found


def _colour_of(summary: RunResult, teacher: TeacherSummary) -> str:
    """Of one of the teachers that were measured, as the accuracy figure has it."""
    return TEACHERS[[each for each in summary.teachers if each.test].index(teacher) % len(TEACHERS)]


def _gap_note(run: Run, gap: GapAt) -> str:
    reach, at = interval_of(run, gap), f"τ = {formatting.temperature(gap.temperature)}"
    if reach is None:
        return f"{at}, raw logits"
    return f"{formatting.signed(reach.low)} to {formatting.signed(reach.high)}, {at}"


def highlighted(toml: str) -> Markup:
    """TOML with its tables and comments set apart; everything in it is escaped."""
    lines = []
    for line in str(escape(toml)).splitlines():
        marked = re.sub(r"((?:^|\s)#.*)$", r"<i>\1</i>", line)
        lines.append(f"<b>{line}</b>" if line.startswith("[") else marked)
    return Markup("\n".join(lines))  # noqa: S704  escaped above
