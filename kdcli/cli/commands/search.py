"""`kd search`: the smallest student within a budget."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kdcli import formatting
from kdcli.cli import completion, quantities
from kdcli.cli import options as o
from kdcli.cli.clusters import Address, Cpus, Executor, Gpus, Slurm, place_of
from kdcli.cli.commands.gates import warn_of_unsigned
from kdcli.cli.commands.sweep import Jobs, jobs_number
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.output.search_screen import SearchNarrator, show_rows
from kdcli.errors import Exit, UsageError
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.results.search import SearchResult

NAME = "search"
EXAMPLES = """
kd search --teacher runs/cnn-large-digits-1 --max-parameters 50k --min-accuracy 0.9
kd search cifar10/skd --candidates 'resnet*' --max-latency 5ms --time 2h --jobs 2
"""
SPACE, BUDGET = "What is searched", "Budget"

Candidates = Annotated[
    list[str] | None,
    typer.Option(
        "--candidates",
        help=(
            "Students to choose from: names, and patterns such as 'timm/*tiny*'; several with "
            "commas. The zoo's that are smaller than the teacher unless given."
        ),
        metavar="NAME",
        rich_help_panel=SPACE,
        show_default=False,
        autocompletion=completion.models,
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--methods",
        help="Methods to choose from, with commas; kd, skd, dkd and dist unless given.",
        metavar="NAME",
        rich_help_panel=SPACE,
        show_default=False,
        autocompletion=completion.methods,
    ),
]
Temperatures = Annotated[
    str | None,
    typer.Option(
        "--temperatures",
        help="Temperatures to choose from, with commas; 1,2,4,8 unless given.",
        metavar="X,Y",
        rich_help_panel=SPACE,
        show_default=False,
    ),
]
Trials = Annotated[
    int,
    typer.Option(
        "--trials", min=1, max=10_000, help="Trials in all.", rich_help_panel=BUDGET, metavar="N"
    ),
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        help="Begin and go on with no trial after so long: 2h, 90m.",
        metavar="TIME",
        rich_help_panel=BUDGET,
        show_default=False,
        callback=o.quantity(quantities.seconds),
    ),
]
SearchOut = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help=(
            "Folder of the search and its runs; one of the command's name in $KD_RUNS_DIR, else in "
            "runs."
        ),
        metavar="DIR",
        file_okay=False,
        rich_help_panel=o.RUNNING,
        show_default=False,
    ),
]

_FLAGS = (
    *("teacher", "teacher_classes", "method", "student", "data", "epochs", "seed"),
    *("device", "precision", "min_accuracy", "max_latency", "max_parameters", "confident"),
)


@o.takes(*_FLAGS)
def run(
    env: Environment,
    recipe: o.RecipeFile = None,
    *,
    candidates: Candidates = None,
    methods: Methods = None,
    temperatures: Temperatures = None,
    trials: Trials = 24,
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
    """Find the smallest student within a budget.

    The budget is one of accuracy, latency, size and time. Latency is measured first. Then students,
    methods, temperatures and learning rates are raced on held-out images, each trial an ordinary
    run; what is set with a flag or --set is not searched. The one that is taken is trained to its
    end and measured on the test images, once. Stopped, the same command goes on.
    """
    number = jobs_number(jobs)
    warm = numbers("--temperatures", temperatures)
    from kdcli.recipe.resolve import resolve

    given = o.overrides(flags)
    # every mistake that can be known is told before torch is imported
    resolved = resolve(
        "distill",
        file=recipe,
        sets=sets or (),
        flags=given,
        environ=env.environ,
        any_student=True,  # the candidates take its place
    )
    warnings = warn_of_unsigned(
        env,
        [
            Path(each.checkpoint)
            for each in getattr(resolved.recipe, "teacher", ())
            if each.checkpoint
        ],
    )
    from kdcli import jobs as kd

    place = place_of(executor, cpus, gpus, slurm, address)

    with SearchNarrator(env) as listeners:
        result = kd.search(
            recipe,
            out=out or runs_dir(env.environ) / "search",
            candidates=names(candidates),
            methods=names(methods),
            temperatures=warm,
            trials=trials,
            seconds=cast("float | None", time),  # which its callback has made of it
            jobs=number,
            place=place,
            sets=sets or (),
            flags=given,
            environ=env.environ,
            listeners=listeners,
            command=shlex.join(["kd", *env.argv]),
            trust=trust,
            told=lambda text: env.progress(f"  {text}"),
        )
    _show(env, result)
    outcome = Outcome.of(result, warnings)
    if not result.met and outcome.exit_code == Exit.OK:
        return Outcome(result, result.gates, warnings, exit_code=Exit.GATE)
    return outcome


def names(given: list[str] | None) -> tuple[str, ...]:
    """Names that were given one by one, or several with commas."""
    return tuple(name.strip() for text in given or () for name in text.split(",") if name.strip())


def numbers(option: str, text: str | None, *, zero: bool = False) -> tuple[float, ...]:
    """Positive numbers with commas. zero: that may be among them.

    Raises:
        UsageError: one is none.
    """
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < each < 1e6 or (zero and each == 0) for each in found):
        raise UsageError(f"{option} takes positive numbers with commas, got {text!r}")
    return found


def _show(env: Environment, result: SearchResult) -> None:
    from kdcli.report.tables.search import STUDENT_HEADINGS, student_headline, student_rows

    shown = dict.fromkeys((*result.frontier, result.chosen))
    show_rows(env, STUDENT_HEADINGS, student_rows(result, tuple(shown)), 1)
    env.answer()
    mark = ("✓", "green") if result.met else ("✗", "bold red")
    env.answer(mark, f" {student_headline(result)}")
    taken = next(each for each in result.trials if each.number == result.chosen)
    assert taken.last is not None
    env.answer(
        f"  held out {formatting.percent(taken.last.accuracy, taken.last.n)}   "
        f"test {formatting.percent(result.test_accuracy, result.test_n)} "
        f"(n = {formatting.thousands(result.test_n)}, used once)   "
        f"{len(result.trials)} trials in {formatting.duration(result.seconds)}"
    )
    for gate in result.gates:
        if not gate.passed:
            env.complain(("missed: ", "bold red"), f"{gate.name} {gate.limit:g}: {gate.value}")
    env.report(f"  run      {result.run}")
    env.report(f"  page     {result.page}")
    env.report(f"  repeat   {result.again}")
