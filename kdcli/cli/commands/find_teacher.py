"""`kd find-teacher`: which checkpoint of a teacher to distil from."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli import options as o
from kdcli.cli.clusters import Address, Cpus, Executor, Gpus, Slurm, place_of
from kdcli.cli.commands.search import (
    BUDGET,
    SPACE,
    SearchOut,
    Temperatures,
    Time,
    numbers,
)
from kdcli.cli.commands.sweep import Jobs, jobs_number
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.output.search_screen import SearchNarrator, show_rows
from kdcli.errors import UsageError
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.results.search import FoundTeacher

NAME = "find-teacher"
EXAMPLES = """
kd find-teacher quickstart
kd find-teacher fashion-mnist/advice-student --trials 12 --jobs 2
kd find-teacher quickstart-teacher --student cnn-small --time 30m
"""

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A distill recipe whose teacher is a recipe, or a train-teacher recipe.",
        show_default=False,
        autocompletion=completion.recipes,
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        "--student",
        help="Network that the probes train; the recipe's, or the zoo's next smaller one.",
        metavar="NAME",
        rich_help_panel=SPACE,
        show_default=False,
        autocompletion=completion.models,
    ),
]
ProbeEpochs = Annotated[
    int | None,
    typer.Option(
        "--probe-epochs",
        min=1,
        help="Epochs of a probe; a third of the recipe's unless given.",
        metavar="N",
        rich_help_panel=BUDGET,
        show_default=False,
    ),
]
Batches = Annotated[
    str | None,
    typer.Option(
        "--batch-sizes",
        help="Of the teacher, to choose from; 1/2, 1, 2 and 4 times the recipe's unless given.",
        metavar="N,M",
        rich_help_panel=SPACE,
        show_default=False,
    ),
]
Smoothings = Annotated[
    str | None,
    typer.Option(
        "--smoothings",
        help="Label smoothings of the teacher, to choose from; 0,0.1,0.3,0.6 unless given.",
        metavar="X,Y",
        rich_help_panel=SPACE,
        show_default=False,
    ),
]
Trials = Annotated[
    int,
    typer.Option(
        "--trials", min=1, max=10_000, help="Teachers in all.", rich_help_panel=BUDGET, metavar="N"
    ),
]


@o.takes("seed", "device", "precision")
def run(
    env: Environment,
    recipe: Recipe,
    *,
    student: Student = None,
    probe_epochs: ProbeEpochs = None,
    batch_sizes: Batches = None,
    smoothings: Smoothings = None,
    temperatures: Temperatures = None,
    trials: Trials = 12,
    time: Time = None,
    sets: o.Sets = None,
    out: SearchOut = None,
    jobs: Jobs = "1",
    executor: Executor = "processes",
    cpus: Cpus = None,
    gpus: Gpus = None,
    slurm: Slurm = None,
    address: Address = None,
    trust: o.Trust = False,
    **flags: Any,
) -> Outcome:
    """Find the teacher to distil from, by short probes.

    Batch size, epochs and label smoothing of the teacher and the temperature are searched by
    successive halving; every checkpoint that is compared is scored by a student that is distilled
    from it for a few epochs, on held-out images. Stopped, the same command goes on.
    """
    number = jobs_number(jobs)
    batches = numbers("--batch-sizes", batch_sizes)
    if any(each != round(each) for each in batches):
        raise UsageError(f"--batch-sizes takes whole numbers, got {batch_sizes!r}")
    smooth = numbers("--smoothings", smoothings, zero=True)
    if any(each >= 1 for each in smooth):
        raise UsageError(f"--smoothings are below 1, got {smoothings!r}")
    warm = numbers("--temperatures", temperatures)
    from kdcli import jobs as kd

    place = place_of(executor, cpus, gpus, slurm, address)

    with SearchNarrator(env) as listeners:
        result = kd.find_teacher(
            recipe,
            out=out or runs_dir(env.environ) / "find-teacher",
            student=student,
            probe_epochs=probe_epochs,
            batches=[round(each) for each in batches],
            smoothings=smooth,
            temperatures=warm,
            trials=trials,
            seconds=cast("float | None", time),  # which its callback has made of it
            jobs=number,
            place=place,
            sets=sets or (),
            flags=o.overrides(flags),
            environ=env.environ,
            listeners=listeners,
            command=shlex.join(["kd", *env.argv]),
            trust=trust,
            told=lambda text: env.progress(f"  {text}"),
        )
    _show(env, result)
    return Outcome(result)


def _show(env: Environment, result: FoundTeacher) -> None:
    from kdcli.report.tables.search import TEACHER_HEADINGS, teacher_rows

    show_rows(env, TEACHER_HEADINGS, teacher_rows(result), 0)
    env.answer()
    taken = next(each for each in result.trials if each.number == result.chosen)
    score = next(each for each in taken.scores if each.epochs == result.epochs)
    env.answer(
        ("✓", "green"),
        f" trial {taken.number} after {formatting.plural(result.epochs, 'epoch')}, at temperature "
        f"{result.temperature:g}: its {result.student} gets "
        f"{formatting.percent(score.accuracy, score.n)} of "
        f"{formatting.plural(score.n, 'held-out image')} right",
    )
    env.answer(f"  teacher  {result.checkpoint}")
    probes = sum(len(each.scores) for each in result.trials)
    env.report(
        f"  took     {formatting.duration(result.seconds)}: "
        f"{formatting.plural(len(result.trials), 'teacher')}, {formatting.plural(probes, 'probe')}"
    )
    env.report(f"  page     {result.page}")
    env.report(f"  next     {result.again}")
