"""`kd sweep`: a matrix of recipes. Finished cells are skipped, stopped ones go on, a failed one
does not stop the others.
"""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli.clusters import Address, Cpus, Executor, Gpus, Slurm, place_of
from kdcli.cli.console import Environment
from kdcli.cli.options import RUNNING, Out, Sets, Trust
from kdcli.cli.output.envelope import ErrorItem, Outcome
from kdcli.cli.output.progress import narrate
from kdcli.cli.output.sweep_progress import narrate_together
from kdcli.errors import Exit, UsageError
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.results.sweep import SweepResult

NAME = "sweep"
EXAMPLES = """
kd sweep tables/energy-table7 --limit 1
kd sweep digits/methods --jobs auto
kd sweep tables/energy-table7 --json -q | jq '.data.cells'
"""

SweepFile = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP",
        help="A sweep file, or the name of a shipped one.",
        show_default=False,
        autocompletion=completion.sweeps,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        help="Run at most N cells; finished ones do not count.",
        metavar="N",
        rich_help_panel=RUNNING,
        show_default=False,
    ),
]

Jobs = Annotated[
    str,
    typer.Option(
        "--jobs",
        help=(
            "Cells that go on at once, each in its own process; auto: one for each core, and on a "
            "cluster all."
        ),
        metavar="N|auto",
        rich_help_panel=RUNNING,
    ),
]


def run(
    env: Environment,
    sweep: SweepFile,
    *,
    sets: Sets = None,
    out: Out = None,
    limit: Limit = None,
    jobs: Jobs = "1",
    executor: Executor = "processes",
    cpus: Cpus = None,
    gpus: Gpus = None,
    slurm: Slurm = None,
    address: Address = None,
    trust: Trust = False,
) -> Outcome:
    """Run a matrix of recipes, skipping finished cells.

    Exit code 4: some cells failed; the others are done and kept. The same command tries the failed
    ones again.
    """
    number = jobs_number(jobs)
    from kdcli.recipe.sweep.cells import load_sweep

    loaded = load_sweep(sweep, sets=sets or ())
    loaded.check()
    from kdcli.jobs import run_sweep

    place = place_of(executor, cpus, gpus, slurm, address)

    typed = shlex.join(["kd", *env.argv])
    alone = number == 1 and place.kind == "processes"
    with narrate(env) if alone else narrate_together(env) as listeners:
        result = run_sweep(
            loaded,
            out=runs_dir(env.environ, out),
            listeners=listeners,
            command=typed,
            limit=limit,
            jobs=number,
            place=place,
            trust=trust,
        )
    return _finish(env, sweep, result)


def jobs_number(jobs: str) -> int | Literal["auto"]:
    """What --jobs was given.

    Raises:
        UsageError: neither a number nor auto.
    """
    try:
        return "auto" if jobs == "auto" else int(jobs)
    except ValueError:
        raise UsageError(f"--jobs takes a number or auto, got {jobs!r}") from None


def _finish(env: Environment, sweep: str, result: SweepResult) -> Outcome:
    counts = Counter(cell.status for cell in result.cells)
    left = result.count - len(result.cells)
    parts = [f"{number} {status}" for status, number in counts.items()] + (
        [f"{left} left"] if left else []
    )
    mark = ("✓", "green") if result.complete else ("✗", "bold red")
    env.answer(mark, f" {formatting.plural(result.count, 'cell')}: {', '.join(parts)}")
    failed = [cell for cell in result.cells if cell.status == "failed"]
    errors = tuple(
        ErrorItem("CELL_FAILED", f"{_labels(cell.labels)}: {cell.error}", f"kd sweep {sweep}")
        for cell in failed
    )
    for error in errors:
        env.complain(("error: ", "bold red"), error.message)
    env.report(f"  next     kd table {sweep}")
    env.report("  pages    kd report RUN draws the page of a run")
    return Outcome(result, errors=errors, exit_code=_exit_code(result, len(failed)))


def _exit_code(result: SweepResult, failed: int) -> Exit:
    if not failed:
        return Exit.OK
    return Exit.INCOMPLETE if failed < len(result.cells) else Exit.FAILURE


def _labels(labels: object) -> str:
    assert isinstance(labels, dict)
    return " ".join(f"{key}={value}" for key, value in labels.items())
