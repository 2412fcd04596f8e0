"""`kd resume RUN --epochs N`: a finished run is trained longer, in a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.events import Listener
from kdcli.jobs.train.environment import folder_of
from kdcli.jobs.train.longer import longer_recipe
from kdcli.jobs.train.run import execute
from kdcli.results.run import RunResult


def train_longer(
    run: str | Path,
    epochs: int,
    *,
    listeners: Sequence[Listener] = (),
    command: str = "",
    keep_state: bool = False,
    trust: bool = False,
) -> RunResult:
    """Goes on from the last state of a finished run until it has had so many epochs, in a new run
    beside it. The schedule is that of so many epochs, from there on.

    Args:
        listeners, command, keep_state: as for `train_teacher`. trust: as for `resume`.

    Raises:
        KdError: the run is not finished, kept no state, or has had as many epochs.
    """
    with folder_of(Path(run)) as earlier:
        resolved = longer_recipe(earlier, epochs)
        with trusted_recipe(resolved, trust=trust):
            result = execute(
                resolved,
                out=earlier.parent,
                listeners=listeners,
                command=command,
                keep_state=keep_state,
            )
    assert result is not None
    return result
