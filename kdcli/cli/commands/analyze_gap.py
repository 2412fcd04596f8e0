"""`kd analyze-gap`: how far students are from their teacher in entropy and free energy; or what a
teacher says, alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli import options as o
from kdcli.cli.commands.gates import gates_of, measured_on, split_of, warn_of_unsigned
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.errors import UsageError
from kdcli.files import check_folder, check_writable
from kdcli.results.intervals import check_resamples
from kdcli.runs import find

if TYPE_CHECKING:
    from kdcli.results.gap import GapReport

NAME = "analyze-gap"
EXAMPLES = """
kd analyze-gap
kd analyze-gap --teacher runs/cnn-large-digits-1 --deep --html gap.html
kd analyze-gap --student runs/latest --temperature 1,4 --max-entropy-gap 0.5
"""
FILES = "Files"


def _file(*names: str, text: str, metavar: str) -> object:
    return typer.Option(
        *names, help=text, metavar=metavar, rich_help_panel=FILES, show_default=False
    )


Teachers = Annotated[
    list[Path] | None,
    typer.Option(
        "-t",
        "--teacher",
        help="A teacher's run or checkpoint. Repeatable.",
        metavar="CKPT",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
Students = Annotated[
    list[Path] | None,
    typer.Option(
        "--student",
        help="A student's run or checkpoint. Repeatable.",
        metavar="CKPT",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
Temperatures = Annotated[
    str | None,
    typer.Option(
        "--temperature", help="Temperatures, such as 1,4.", metavar="LIST", show_default=False
    ),
]
Csv = Annotated[
    Path | None, _file("--csv", text="Write every number to this file.", metavar="FILE")
]
Html = Annotated[
    Path | None,
    _file(
        "--html",
        text="Write a page with verdict and figures, which needs no network.",
        metavar="FILE",
    ),
]
Plots = Annotated[
    Path | None,
    _file("--plot", text="Draw the figures into this folder, as SVG and PNG.", metavar="DIR"),
]


def run(
    env: Environment,
    *,
    teacher: Teachers = None,
    student: Students = None,
    temperature: Temperatures = None,
    data: o.EvalData = None,
    data_dir: o.DataRoot = None,
    sets: o.DataSets = None,
    split: o.Split = "test",
    device: o.EvalDevice = "auto",
    trust: o.Trust = False,
    bootstrap: Annotated[
        int,
        typer.Option(
            "--bootstrap",
            help="Resamples behind the intervals, at most a million.",
            metavar="N",
            rich_help_panel=o.RUNNING,
        ),
    ] = 1000,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also t-SNE, silhouette, CKA and latency, which take longer."),
    ] = False,
    html: Html = None,
    csv: Csv = None,
    plot: Plots = None,
    save_logits: o.SaveLogits = None,
    min_accuracy: o.MinAccuracy = None,
    max_entropy_gap: o.MaxEntropyGap = None,
    max_free_energy_gap: o.MaxFreeEnergyGap = None,
    max_ece: o.MaxEce = None,
    within: o.Within = None,
    confident: o.Confident = None,
) -> Outcome:
    """The gap between teachers and students, and what explains it.

    Without --teacher: what taught the student, several teachers as the one that they were to it, at
    the temperatures of its report; without --student: the newest distil run. A teacher alone: its
    response profile, and what it has to teach. One student is compared with every teacher that is
    given; several students of several teachers each with those that taught them.
    """
    check_resamples(bootstrap)
    gates = gates_of(
        min_accuracy=min_accuracy,
        max_entropy_gap=max_entropy_gap,
        max_free_energy_gap=max_free_energy_gap,
        max_ece=max_ece,
        within=within,
        confident=confident,
    )
    temperatures, wanted = _temperatures(temperature), split_of(split)
    students = tuple(student or ())
    if not teacher:
        students = _students_of(env, students)
    lesson = _Lesson(tuple(teacher)) if teacher else _lesson_of_all(students)
    found = lesson.teachers
    asked = measured_on((*found, *students), data, sets or (), data_dir)
    files = _Files(html, csv, plot, save_logits)
    files.check()
    from kdcli import jobs

    report = jobs.analyze_gap(
        found,
        students,
        shares=lesson.shares,
        temperatures=temperatures or lesson.temperatures,
        overrides=asked,
        split=wanted,
        device=device,
        bootstrap=bootstrap,
        deep=deep,
        save_logits_to=save_logits,
        gates=gates,
        trust=trust,
    )
    _show(env, report)
    _write(env, report, files)
    return Outcome.of(report, warn_of_unsigned(env, (*found, *students)))


def _temperatures(given: str | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError as error:
        raise UsageError(
            f"--temperature takes numbers with commas between them, got {given!r}",
            hint="--temperature 1,4",
        ) from error


class _Lesson(NamedTuple):
    """What a student was taught by: the teachers, their shares where they taught as one, and the
    temperatures at which its run measured the gap.
    """

    teachers: tuple[Path, ...]
    shares: tuple[float, ...] | None = None
    temperatures: tuple[float, ...] | None = None


def _students_of(env: Environment, given: tuple[Path, ...]) -> tuple[Path, ...]:
    """Those that were given, or the newest distil run."""
    from kdcli.runs.find import newest

    if given:
        return given
    found = newest(find.runs_dir(env.environ))
    env.report(f"  newest distil run: {found}")
    return (found,)


def _lesson_of_all(students: tuple[Path, ...]) -> _Lesson:
    """The one lesson of several students, or their teachers side by side.

    Raises:
        UsageError: a student does not say who taught it, or several teachers taught as one and not
            all students.
    """
    lessons = [_lesson(student) for student in students]
    first = lessons[0]
    if all(lesson[:2] == first[:2] for lesson in lessons):
        return first
    if any(lesson.shares for lesson in lessons):
        raise UsageError(
            "these students were not taught alike, and some by several teachers at once",
            hint="kd analyze-gap --student S for each, or --teacher CKPT for what to compare with",
        )
    teachers = (teacher for lesson in lessons for teacher in lesson.teachers)
    return _Lesson(tuple(dict.fromkeys(teachers)), None, first.temperatures)


def _lesson(student: Path) -> _Lesson:
    from kdcli.results.run import RunResult
    from kdcli.results.weights_header import find_checkpoint, read_header
    from kdcli.runs.find import from_here
    from kdcli.runs.manifest import read_record
    from kdcli.typed import from_dict

    # a student that is not there is that, and not one that says nothing
    summary = find_checkpoint(student).parent / "summary.json"
    found = from_dict(RunResult, read_record(summary), summary) if summary.is_file() else None
    taught = () if found is None else found.teachers or (found.reference,)
    hint = f"kd analyze-gap --teacher CKPT --student {student}"
    teachers = [
        replace(teacher, checkpoint=from_here(summary.parent, teacher.checkpoint))
        for teacher in taught
        if teacher is not None
    ]
    if found is None or not teachers:
        raise UsageError(f"{student} does not say who taught it", hint=hint)
    for teacher in teachers:
        if not teacher.sha256:
            problem = f"{student} was taught by {teacher.checkpoint}, which is no checkpoint"
            raise UsageError(problem, hint=f"its gap is in its report; or {hint}")
        if read_header(teacher.checkpoint)[1].tensors_sha256 != teacher.sha256:
            problem = f"{teacher.checkpoint} is no longer what taught {student}: its weights differ"
            raise UsageError(problem, hint=hint)
    shares = tuple(teacher.weight for teacher in teachers) if len(teachers) > 1 else None
    temperatures = tuple(dict.fromkeys(gap.temperature for gap in found.gaps))
    return _Lesson(
        tuple(Path(teacher.checkpoint) for teacher in teachers), shares, temperatures or None
    )


def _show(env: Environment, report: GapReport) -> None:
    from kdcli.cli.output.explanation_screen import time_line
    from kdcli.cli.output.gap_screen import screen_lines
    from kdcli.cli.output.run_screen import show_gates

    for line in screen_lines(report, env.answer_width, verbose=env.settings.verbose):
        env.answer(line)
    for warning in report.warnings:
        env.report(("warning: ", "yellow"), warning)
    if report.seconds:
        env.report(time_line(report))
    show_gates(env, report.gates)


class _Files(NamedTuple):
    """The files to write, and where."""

    html: Path | None
    csv: Path | None
    plot: Path | None
    logits: Path | None

    def check(self) -> None:
        """Refuses places that cannot be written to, before anything is measured."""
        for path in (self.html, self.csv):
            if path is not None:
                check_writable(path)
        if self.logits is not None:
            check_writable(self.logits, text=False)
        if self.plot is not None:
            check_folder(self.plot)


def _write(env: Environment, report: GapReport, files: _Files) -> None:
    from kdcli.cli.output import gap_files

    if files.html is not None:
        gap_files.write_page(report, files.html)
        env.report(f"  page     {files.html}")
    if files.csv is not None:
        gap_files.write_csv(report, files.csv)
        env.report(f"  csv      {files.csv}")
    if files.plot is not None:
        drawn = len(gap_files.write_plots(report, files.plot)) // 2
        env.report(
            f"  plots    {formatting.plural(drawn, 'figure')}, SVG and PNG: "
            f"{files.plot / 'README.md'}"
        )
    if files.logits is not None:
        env.report(f"  logits   {files.logits}")
