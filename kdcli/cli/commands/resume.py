"""`kd resume`: a run that was stopped goes on, with the same recipe; on a CPU to the very bits of
one that never stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli import completion
from kdcli.cli.commands.run_job import finish
from kdcli.cli.console import Environment
from kdcli.cli.options import KeepState, Trust
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.output.progress import narrate

NAME = "resume"
EXAMPLES = """
kd resume runs/latest
kd resume runs/skd-cnn-small-digits-1
"""

Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run directory.", show_default=False, autocompletion=completion.runs
    ),
]


def run(
    env: Environment, run: Run, *, keep_state: KeepState = False, trust: Trust = False
) -> Outcome:
    """Continue a run that was interrupted.

    The recipe is the run's own; nothing can be changed.
    """
    from kdcli import jobs

    with narrate(env) as listeners:
        result = jobs.resume(run, listeners=listeners, keep_state=keep_state, trust=trust)
    return finish(env, result)
