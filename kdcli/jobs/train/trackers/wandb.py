"""Weights & Biases: offline, in wandb/ beside the runs, unless WANDB_MODE says otherwise.

`wandb sync` sends it.
"""

from __future__ import annotations

import os

from kdcli.jobs.events import Event
from kdcli.jobs.train.trackers.numbers import Numbers, Tracked, final
from kdcli.results.run import RunResult

PACKAGE = "wandb"
PROJECT = "kd"


class Tracker:
    """Hands what it hears to a run of wandb. One that goes on has the same id, so that wandb shows
    it as one.
    """

    name = "wandb"

    def __init__(self, run: Tracked) -> None:
        import wandb

        given = os.environ
        self._numbers = Numbers()
        self._run = wandb.init(
            project=given.get("WANDB_PROJECT") or PROJECT,
            name=given.get("WANDB_NAME") or run.name,
            id=given.get("WANDB_RUN_ID") or run.key,
            resume="allow",
            mode=None if given.get("WANDB_MODE") else "offline",
            dir=given.get("WANDB_DIR") or run.runs,
            config=dict(run.settings),
            settings=wandb.Settings(silent=True, console="off"),  # the screen is kd's
        )

    def __call__(self, event: Event) -> None:
        found = self._numbers.of(event)
        if found is not None:
            epoch, values = found
            self._run.log({**values, "epoch": epoch})

    def finish(self, result: RunResult) -> None:
        """Final numbers, as the run's summary."""
        self._run.summary.update(final(result))

    def close(self, *, finished: bool) -> None:
        """Puts the rest on disk, or sends it."""
        self._run.finish(exit_code=0 if finished else 1)
