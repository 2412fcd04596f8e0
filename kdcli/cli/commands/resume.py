"""`kd resume`: a run that was stopped goes on, with the same recipe; on a CPU to the very bits of
one that never stopped.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli import completion
from kdcli.cli.commands.run_job import finish
from kdcli.cli.console import Environment
from kdcli.cli.options import RUNNING, KeepState, Trust
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


Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        help="Train a finished run that kept its state on, until it has had N epochs.",
        metavar="N",
        rich_help_panel=RUNNING,
        show_default=False,
    ),
]


def run(
    env: Environment,
    run: Run,
    *,
    epochs: Epochs = None,
    keep_state: KeepState = False,
    trust: Trust = False,
) -> Outcome:
    """Continue a run that was interrupted, or train one longer.

    The recipe is the run's own; nothing can be changed. With --epochs, a finished run that was made
    with --keep-state goes on from its last state in a new run beside it, whose schedule is that of
    N epochs from there on; the old run stays as it is.
    """
    from kdcli import jobs

    with narrate(env) as listeners:
        if epochs is None:
            result = jobs.resume(run, listeners=listeners, keep_state=keep_state, trust=trust)
        else:
            command = shlex.join(["kd", *env.argv])
            result = jobs.train_longer(
                run,
                epochs,
                listeners=listeners,
                command=command,
                keep_state=keep_state,
                trust=trust,
            )
    return finish(env, result)
