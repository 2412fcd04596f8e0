"""Options of the commands whose runs may go on elsewhere than in processes of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kdcli.errors import UsageError

if TYPE_CHECKING:
    from kdcli.jobs.sweep.executor import Kind, Place

PANEL = "Cluster"
_KINDS = ("processes", "slurm", "ray")


def _option(*names: str, text: str, metavar: str, **more: Any) -> Any:
    return typer.Option(
        *names, help=text, metavar=metavar, rich_help_panel=PANEL, show_default=False, **more
    )


Executor = Annotated[
    str,
    _option(
        "--executor",
        text="Where runs go on: processes of this machine, slurm or ray.",
        metavar="NAME",
    ),
]
Cpus = Annotated[
    float | None,
    _option("--cpus", text="Cores of each run on a cluster; 1 unless given.", metavar="N"),
]
Gpus = Annotated[
    float | None,
    _option("--gpus", text="GPUs of each; fractions such as 0.5 on Ray.", metavar="N"),
]
Slurm = Annotated[
    list[str] | None,
    _option(
        "--slurm",
        text="An option of sbatch: partition=gpu, time=120 (minutes). Repeatable.",
        metavar="KEY=VALUE",
    ),
]
Address = Annotated[
    str | None,
    _option(
        "--address",
        text="Of the Ray cluster; the one of this machine unless given.",
        metavar="HOST",
    ),
]


def place_of(
    executor: str,
    cpus: float | None,
    gpus: float | None,
    slurm: list[str] | None,
    address: str | None,
) -> Place:
    """Where the runs go on, by these options.

    Raises:
        UsageError: there is no such executor, or an option is none of its.
    """
    if executor not in _KINDS:
        raise UsageError(f"{executor!r} is no executor", hint=f"there are {', '.join(_KINDS)}")
    given = {"--cpus": cpus, "--gpus": gpus, "--slurm": slurm or None, "--address": address}
    known = {
        "processes": set[str](),
        "slurm": {"--cpus", "--gpus", "--slurm"},
        "ray": {"--cpus", "--gpus", "--address"},
    }[executor]
    for option, value in given.items():
        if value is not None and option not in known:
            raise UsageError(
                f"{option} goes with a cluster that has it, and --executor is {executor}",
                hint=f"leave {option} out, or choose another --executor",
            )
    options = {}
    for text in slurm or ():
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--slurm takes KEY=VALUE, got {text!r}", hint="--slurm time=120")
        options[key] = value
    from kdcli.jobs.sweep.executor import Place

    return Place(
        cast("Kind", executor),
        1 if cpus is None else cpus,
        0 if gpus is None else gpus,
        options,
        address or "auto",
    )
