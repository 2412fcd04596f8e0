"""The page of `kd analyze-gap --html`: the same parts as a run's report, for any teachers and
students.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from kdcli import __version__, formatting, tasks
from kdcli.report.figures.pair import figures_of_report
from kdcli.report.figures.palette import Palette
from kdcli.report.findings.gap import first_raw_pair, headline, lead, rests_on, usual_temperature
from kdcli.report.page.gap_sections import gap_sections
from kdcli.report.page.html import Tile, accuracy_tile, page
from kdcli.report.page.parts import Section
from kdcli.results.gap import GapReport

MOST_TILES = 4  # networks whose accuracy stands at the top; more are in the figure by size


def to_page(report: GapReport) -> str:
    """A GapReport as one HTML document that fetches nothing."""
    task = tasks.of_data(report.data)
    found = gap_sections(report, tuple(figures_of_report(report)))
    parts = (*(section.worded(task.worded) for section in found), reproduce(report))
    return page(
        name=_name(report),
        headline=headline(report),
        subtitle=(
            f"kd analyze-gap · {report.split} split of {report.measured_on}, n = "
            f"{formatting.plural(report.n, task.sample)}"
        ),
        tiles=list(_tiles(report)),
        lead=list(lead(report)),
        command="",
        rests_on=rests_on(report),
        gates=report.gates,
        warnings=report.warnings,
        sections=parts,
        footer=f"Made by kd {__version__}.",
    )


def _name(report: GapReport) -> str:
    teachers = formatting.listed([one.teacher.label for one in report.reports])
    students = list(
        dict.fromkeys(student.label for one in report.reports for student in one.students)
    )
    return f"{teachers} → {formatting.listed(students)}" if students else teachers


def _tiles(report: GapReport) -> Iterator[Tile]:
    palette = Palette.of(report)
    students = {
        student.label: student
        for one in report.reports
        for student in one.students
        if student.form == "raw"
    }
    for student in list(students.values())[:MOST_TILES]:
        yield accuracy_tile(student.measures, student.label, palette.student(student.label).colour)
    for one in report.reports[:MOST_TILES]:
        yield accuracy_tile(
            one.teacher.measures, one.teacher.label, palette.teacher(one.teacher.label).colour
        )
    pair = first_raw_pair(report)
    if pair and len(students) == 1 and not report.others:
        at = usual_temperature(pair)
        note = (
            f"{formatting.signed(at.entropy.low)} to {formatting.signed(at.entropy.high)}, τ = "
            f"{formatting.temperature(at.temperature)}"
        )
        yield Tile(formatting.signed(at.entropy.value), "entropy gap, nats", note)
    found = report.explanation.hypothesis if report.explanation else None
    if found and not students and not report.others:
        e, tau = found.relative_entropy, formatting.temperature(found.temperature)
        yield Tile(
            formatting.number(e.value),
            "entropy / log K",
            f"{formatting.number(e.low)}–{formatting.number(e.high)}, τ = {tau}",
        )
        c = found.column_cv_interval
        reach = f"{formatting.number(c.low)}–{formatting.number(c.high)}, " if c else ""
        yield Tile(formatting.number(found.column_cv), "variation in a class", f"{reach}τ = {tau}")


def _data_options(report: GapReport) -> Iterator[str]:
    """The options that say what was measured."""
    yield from ("-d", report.data)
    for key, value in report.data_options.items():
        if key != "name":
            yield from ("-s", f"data.{key}={json.dumps(value)}")


def reproduce(report: GapReport) -> Section:
    """The command that makes the page again."""
    students = dict.fromkeys(
        student.checkpoint for one in report.reports for student in one.students
    )
    given = [
        # a mean is what the student's own run names
        *(("-t", one.teacher.checkpoint) for one in report.reports if not one.shares),
        *(("--student", path) for path in students),
    ]
    temperatures = ",".join(formatting.temperature(tau) for tau in report.temperatures)
    deep = ("--deep",) if report.explanation and report.explanation.tsne else ()
    options = (
        "--temperature",
        temperatures,
        *_data_options(report),
        "--split",
        report.split,
        "--bootstrap",
        str(report.bootstrap),
        *deep,
    )
    line = shlex.join(
        [
            "kd",
            "analyze-gap",
            *(part for pair in given for part in pair),
            *options,
            "--html",
            "gap.html",
        ]
    )
    return Section("reproduce", "How to reproduce", code=line)
