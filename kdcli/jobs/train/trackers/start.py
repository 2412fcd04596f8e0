"""Starting the trackers that a recipe names, and refusing those that are not installed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from kdcli.errors import UsageError
from kdcli.files import read_json
from kdcli.jobs.events import Event
from kdcli.jobs.listeners import Audience
from kdcli.jobs.train.trackers.numbers import Tracked, flat
from kdcli.recipe.schema import Recipe
from kdcli.results.run import RunResult
from kdcli.runs.folder import ENVIRONMENT_FILE


class Tracker(Protocol):
    """A listener that puts a run into somebody's tool.

    Made with a `Tracked`; `finish` hears the result, `close` comes last, whatever happened.
    """

    name: str

    def __call__(self, event: Event) -> None: ...

    def finish(self, result: RunResult) -> None: ...

    def close(self, *, finished: bool) -> None: ...


class Trackers(Audience[Tracker]):
    """The trackers of one run. None of them can stop it: one that cannot be started is told of as
    one that fails later.
    """

    def __init__(self, names: Sequence[str] = (), run: Tracked | None = None) -> None:
        super().__init__((), "tracker")
        for name in names:
            try:
                self._listeners.append(_module(name).Tracker(run))
            except Exception as error:  # noqa: BLE001  of a tool that is not ours
                self.tell(name, error)

    def finish(self, result: RunResult) -> None:
        """Hands on the result of a run that is done."""
        self.each(lambda tracker: tracker.finish(result))

    def close(self, *, finished: bool) -> None:
        """Lets each put its house in order."""
        self.each(lambda tracker: tracker.close(finished=finished))


def check_installed(names: Sequence[str]) -> None:
    """Refuses trackers whose package is not there, before anything is computed.

    Raises:
        UsageError: which one.
    """
    for name in names:
        if importlib.util.find_spec(_module(name).PACKAGE) is None:
            raise UsageError(
                f"report.track names {name}, which is not installed",
                hint="pip install 'kdcli[track]', or leave it out",
            )


def start_trackers(recipe: Recipe, run: Path, epoch: int) -> Trackers:
    """The trackers that a recipe names. epoch: as of `Tracked`."""
    names = tuple(dict.fromkeys(recipe.report.track))
    if not names:
        return Trackers()
    begun = read_json(run / ENVIRONMENT_FILE).get("started")
    key = hashlib.sha256(f"{run.name} {begun}".encode()).hexdigest()[:16]
    settings = flat(recipe.model_dump(mode="json", exclude_none=True))
    tracked = Tracked(run.name, key, str(run), str(run.parent), settings, epoch)
    return Trackers(names, tracked)


def _module(name: str) -> Any:
    return importlib.import_module(f"kdcli.jobs.train.trackers.{name}")
