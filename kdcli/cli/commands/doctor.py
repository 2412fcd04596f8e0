"""`kd doctor`: is this machine ready, and what to do where it is not."""

from __future__ import annotations

from typing import Annotated

import typer

from kdcli.cli.console import Environment
from kdcli.cli.options import DataRoot, Out
from kdcli.cli.output.envelope import ErrorItem, Outcome
from kdcli.cli.text import columns
from kdcli.errors import Exit
from kdcli.runs.find import runs_dir

NAME = "doctor"
EXAMPLES = """
kd doctor
kd doctor --tune
kd doctor --json -q | jq '.data[] | select(.ok == false)'
"""
_MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("!", "yellow")}


Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="Measure for two minutes which precision, threads, memory layout, compiling and "
        "batch are fast on this machine; automatic choices are by that from then on.",
    ),
]


def run(
    env: Environment, *, tune: Tune = False, data_dir: DataRoot = None, out: Out = None
) -> Outcome:
    """Check versions, devices, disk, folders and datasets.

    Exit code 1 if something that kd needs is broken.
    """
    from kdcli import jobs

    measured: tuple[jobs.Check, ...] = ()
    if tune:
        if (share := jobs.busy()) is not None:
            env.progress(
                f"this machine is busy, {share:.1f} processes a core: what is measured now may "
                "mislead; measure again when nothing else computes"
            )
        measured = jobs.tuning_checks(
            jobs.tune(told=lambda what: env.progress(f"measuring {what}"))
        )
    root = str(data_dir) if data_dir else None
    checks = (*measured, *jobs.doctor(root, out=runs_dir(env.environ, out)))
    lines = columns([(check.name, check.detail) for check in checks], indent=1)
    for check, line in zip(checks, lines, strict=True):
        env.answer("  ", _MARKS[check.ok], line)
        if check.hint and not check.ok:
            env.answer(f"      {check.hint}")
    broken = [
        ErrorItem("NOT_READY", f"{check.name}: {check.detail}", check.hint)
        for check in checks
        if check.ok is False
    ]
    return Outcome(checks, errors=tuple(broken), exit_code=Exit.FAILURE if broken else Exit.OK)
