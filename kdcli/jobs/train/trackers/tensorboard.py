"""TensorBoard: an event file in RUN/tensorboard, for `tensorboard --logdir runs`."""

from __future__ import annotations

from pathlib import Path

from kdcli.jobs.events import Event
from kdcli.jobs.train.trackers.numbers import Numbers, Tracked, final
from kdcli.results.run import RunResult

PACKAGE = "tensorboard"
FOLDER = "tensorboard"


class Tracker:
    """Writes what it hears into an event file."""

    name = "tensorboard"

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        self._numbers = Numbers()
        # epochs that are repeated after a stop are shown once
        self._writer = SummaryWriter(str(Path(run.folder) / FOLDER), purge_step=run.epoch or None)

    def __call__(self, event: Event) -> None:
        found = self._numbers.of(event)
        if found is not None:
            epoch, values = found
            for name, value in values.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()

    def finish(self, result: RunResult) -> None:
        """Final numbers beside the recipe, for the tab HPARAMS."""
        from torch.utils.tensorboard.summary import hparams

        values = final(result)
        # not add_hparams, which makes a folder of its own for them
        for summary in hparams(dict(self._run.settings), values):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]
        for name, value in values.items():
            self._writer.add_scalar(name, value, result.epochs)

    def close(self, *, finished: bool) -> None:  # noqa: ARG002  as the others
        """Puts the rest on disk."""
        self._writer.close()
