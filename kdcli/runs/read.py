"""A run's folder as one typed value: all that a report, a comparison or a table needs. No torch.

Reading is forgiving about time and strict about content. A job may still be writing (the last line
of metrics.jsonl is torn, there is no summary yet), or may have been killed and resumed (an epoch is
logged twice); but a file that is not what kd writes is named as damaged, never half used.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kdcli.errors import CorruptFile
from kdcli.runs.folder import (
    ANALYSIS_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    SUMMARY_FILE,
)
from kdcli.results.dynamics import Snapshot
from kdcli.results.measures import Measures
from kdcli.results.run import RunAnalysis, RunResult
from kdcli.runs.find import Command, find_run
from kdcli.runs.manifest import check, read_record
from kdcli.runs.metrics_file import read_metrics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as metrics.jsonl announces it. number counts from 1; trainable: parameters that get
    gradients. probe: before its first step.
    """

    stage: str
    number: int
    count: int
    trainable: int
    batches: int
    probe: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch. losses are means over its images, by term; val is None where nothing is
    held out, probe where nothing was probed.
    """

    stage: str
    epoch: int
    epochs: int
    lr: float
    losses: Mapping[str, float]
    train_accuracy: float
    val: Measures | None = None
    best: bool = False
    probe: Snapshot | None = None
    seconds: float = 0.0
    images_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory. summary is None while the run is unfinished; analysis where none was made.

    torn: whether a killed process left the last line of metrics.jsonl half written. damage: a
    sentence for each record that is not what was written; what could not be believed is left out.
    baseline: the same network trained on labels alone, where
    `kdcli.report.findings.baseline` found such a run.
    """

    path: Path
    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Mapping[str, Any]
    stages: tuple[Stage, ...]
    epochs: tuple[Epoch, ...]
    summary: RunResult | None
    analysis: RunAnalysis | None
    torn: bool = False
    damage: tuple[str, ...] = ()
    baseline: RunResult | None = None

    @property
    def name(self) -> str:
        return self.summary.name if self.summary else self.path.resolve().name

    @property
    def command(self) -> Command:
        if self.summary:
            return self.summary.command
        return "train-teacher" if "model" in self.recipe else "distill"

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Reads a run directory (or the one that holds the file given).

        Raises:
            NotFound: there is no run. CorruptFile: one of its files is damaged.
        """
        folder = find_run(path)
        text, recipe = read_recipe(folder / RECIPE_FILE)
        metrics = read_metrics(folder / METRICS_FILE)
        events = [event for event, _ in metrics.events]
        summary = _optional(folder / SUMMARY_FILE, RunResult)
        damage = Damage()
        damage.noticed(lambda: check(folder / RECIPE_FILE), "it is shown as it is now")
        environment = damage.noticed(
            lambda: _optional(folder / ENVIRONMENT_FILE, dict[str, Any]), "it is left out"
        )
        analysis = damage.noticed(
            lambda: _optional(folder / ANALYSIS_FILE, RunAnalysis),
            f"what it draws is left out; kd analyze-gap --student {folder} measures it again",
        )
        lost = metrics.damaged + (summary is not None and not _ended(events))
        if lost:
            damage.sentences.append(
                f"{folder / METRICS_FILE} is damaged: {lost} of its lines are left out of the curves"
            )
        return cls(
            path=folder,
            recipe=recipe,
            recipe_text=text,
            environment=environment or {},
            stages=_stages(events, folder / METRICS_FILE),
            epochs=_epochs(events, folder / METRICS_FILE),
            summary=summary,
            analysis=analysis,
            torn=metrics.torn,
            damage=tuple(damage.sentences),
        )


class Damage:
    """Collects what is wrong with records that a run can be read without."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def noticed(self, read: Callable[[], T], so: str) -> T | None:
        """What `read` returns; None and a sentence where it finds damage. so: what follows."""
        try:
            return read()
        except CorruptFile as error:
            self.sentences.append(f"{error.message}: {so}")
            return None


def _ended(events: Sequence[Mapping[str, Any]]) -> bool:
    """Tells whether the last line is that of a finished run, or of a run without one."""
    return not events or events[-1]["event"] == "done" or "line" not in events[-1]


# ---- reading -------------------------------------------------------------------------------------


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def from_dict(kind: type[T], data: Any, origin: Path | str) -> T:
    """Rebuilds a frozen result from the JSON it was written as; keys of a newer kd are ignored.

    JSON has no word for NaN and infinity, so null where a number must stand is read as NaN.

    Raises:
        CorruptFile: `origin` lacks a field or holds one of another type.
    """
    try:
        found: T = _validated(kind, data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CorruptFile(
            f"{origin} is not what kd writes: {place}: {first['msg'].lower()}",
            hint="run the command again",
        ) from error
    return found


def _validated(kind: Any, data: Any) -> Any:
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        gaps = [
            found["loc"]
            for found in error.errors()
            if found["type"] == "float_type" and found["input"] is None
        ]
        if len(gaps) < error.error_count():
            raise
    for place in gaps:
        data = _with_nan(data, place)
    return _adapter(kind).validate_python(data)


def _with_nan(data: Any, place: tuple[int | str, ...]) -> Any:
    if not place:
        return math.nan
    head, rest = place[0], place[1:]
    if isinstance(data, dict):
        return {**data, head: _with_nan(data[head], rest)}
    return [_with_nan(item, rest) if number == head else item for number, item in enumerate(data)]


def _optional(path: Path, kind: type[T]) -> T | None:
    return from_dict(kind, read_record(path), path) if path.is_file() else None


def read_recipe(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a resolved recipe, and its tables.

    Raises:
        CorruptFile: it is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{path} cannot be read as TOML: {error}") from error


def _stages(events: list[dict[str, Any]], path: Path) -> tuple[Stage, ...]:
    """By stage, the last announcement: a resumed run makes it again."""
    found = [from_dict(Stage, event, path) for event in events if event.get("event") == "stage"]
    return tuple({stage.stage: stage for stage in found}.values())


def _epochs(events: list[dict[str, Any]], path: Path) -> tuple[Epoch, ...]:
    """By stage and number, the last record: a resumed run repeats what it did after its last
    save.
    """
    found = [from_dict(Epoch, event, path) for event in events if event.get("event") == "epoch"]
    return tuple({(epoch.stage, epoch.epoch): epoch for epoch in found}.values())
