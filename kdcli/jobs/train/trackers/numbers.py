"""What a tracker is told of a run: numbers by name, an epoch at a time, and the recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdcli import formatting
from kdcli.jobs.events import EpochDone, Event, StageStarted
from kdcli.results import metric_paths
from kdcli.results.dynamics import Snapshot
from kdcli.results.run import RunResult

_CHOSEN = ("test.", "val.", "teacher.test.", "gap.", "aligned_gap.", "cost.", "calibration.")


@dataclass(frozen=True, slots=True)
class Tracked:
    """A run as a tracker is to show it. name: of its folder. key: of this run and no other, the
    same when it goes on; hexadecimal. folder: of the run. runs: the folder that it lies in.
    settings: the recipe by dotted key. epoch: the one that it goes on with; 0 for a run that
    begins, and for one that goes on in a later stage, whose epochs count from 1 again.
    """

    name: str
    key: str
    folder: str
    runs: str
    settings: Mapping[str, str | int | float | bool]
    epoch: int = 0


class Numbers:
    """The numbers of events: `of` gives the epoch, from 0, and what is known of it by name.

    Names of a method with several stages have the stage in front, since its epochs count from 1
    again.
    """

    def __init__(self) -> None:
        self._prefix = ""

    def of(self, event: Event) -> tuple[int, dict[str, float]] | None:
        """Nothing for an event without any."""
        if isinstance(event, StageStarted):
            self._prefix = f"{event.at.stage}/" if event.count > 1 else ""
            begun = dict(_probed(event.probe)) if event.probe else {}
            return (0, self._named(begun)) if begun else None
        if not isinstance(event, EpochDone):
            return None
        found: dict[str, float | None] = {
            f"loss/{name}": value for name, value in event.losses.items()
        }
        found |= {
            "loss/total": sum(event.losses.values()),
            "accuracy/train": event.train_accuracy,
            "lr": event.lr,
            "images_per_second": event.images_per_second,
        }
        if event.val is not None:
            found |= {
                "accuracy/val": event.val.accuracy,
                "nll/val": event.val.nll,
                "ece/val": event.val.ece,
                "agreement/val": event.val.agreement,
            }
        if event.probe is not None:
            found |= dict(_probed(event.probe))
        return event.at.epoch, self._named(found)

    def _named(self, found: Mapping[str, float | None]) -> dict[str, float]:
        return {
            f"{self._prefix}{name}": value
            for name, value in found.items()
            if value is not None and formatting.known(value)
        }


def _probed(probe: Snapshot) -> Iterator[tuple[str, float | None]]:
    """Entropies, free energies and gaps on the same images at one moment."""
    for name, network in probe.networks.items():
        yield f"accuracy/probe/{name}", network.accuracy
        for at in network.at:
            tau = f"tau-{formatting.temperature(at.temperature)}"
            yield f"entropy/{name}/{tau}", at.entropy
            yield f"free_energy/{name}/{tau}", at.free_energy
    for gap in probe.gaps:
        form = "-aligned" if gap.aligned else ""
        tau = f"tau-{formatting.temperature(gap.temperature)}{form}"
        yield f"gap/entropy/{tau}", gap.entropy
        yield f"gap/free_energy/{tau}", gap.free_energy


def final(result: RunResult) -> dict[str, float]:
    """The numbers of a finished run by dotted path, as tables name them."""
    found = {}
    for path in metric_paths.paths():
        value: Any = result
        for part in path.split("."):
            value = getattr(value, part, None)
        chosen = path.startswith(_CHOSEN) or path in {"parameters", "wall_seconds"}
        if chosen and isinstance(value, int | float) and formatting.known(value):
            found[f"result/{path}"] = float(value)
    return found


def flat(value: Any, key: str = "") -> dict[str, str | int | float | bool]:
    """A recipe's values by dotted key; lists as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {
            name: found
            for part, item in value.items()
            for name, found in flat(item, f"{key}.{part}" if key else str(part)).items()
        }
    return {key: value if isinstance(value, str | int | float | bool) else str(value)}
