"""A run's folder as one typed value: all that a report, a comparison or a table needs. No torch.

Reading is forgiving about time and strict about content. A job may still be writing (the last line
of metrics.jsonl is torn, there is no summary yet), or may have been killed and resumed (an epoch is
logged twice); but a file that is not what kd writes is named as damaged, never half used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdcli.errors import CorruptFile
from kdcli.files import DAMAGED, MAX_RECIPE_BYTES, parse_toml, read_bytes
from kdcli.runs.folder import (
    ANALYSIS_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    MISTAKES_FILE,
    RECIPE_FILE,
    SUMMARY_FILE,
)
from kdcli.results.environment import Described
from kdcli.results.dynamics import Snapshot
from kdcli.results.measures import Measures
from kdcli.results.mistakes import Mistakes
from kdcli.results.run import RunAnalysis, RunResult
from kdcli.runs.find import Command, find_run
from kdcli.runs.manifest import check, read_record
from kdcli.runs.metrics_file import read_metrics
from kdcli.typed import from_dict

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
    """A run directory. summary is None while the run is unfinished; analysis and mistakes where
    none were written.

    environment: all of environment.json, to show; described: what a report takes from it.
    torn: whether a killed process left the last line of metrics.jsonl half written. damage: a
    sentence for each record that is not what was written; what could not be believed is left out.
    baseline: the same network trained on labels alone, where
    `kdcli.report.findings.baseline` found such a run.
    """

    path: Path
    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Mapping[str, Any]
    described: Described
    stages: tuple[Stage, ...]
    epochs: tuple[Epoch, ...]
    summary: RunResult | None
    analysis: RunAnalysis | None
    torn: bool = False
    damage: tuple[str, ...] = ()
    baseline: RunResult | None = None
    mistakes: Mistakes | None = None

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
        environment = damage.noticed(lambda: _environment(folder), "it is left out")
        analysis = damage.noticed(
            lambda: _optional(folder / ANALYSIS_FILE, RunAnalysis),
            f"what it draws is left out; kd analyze-gap --student {folder} measures it again",
        )
        mistakes = damage.noticed(
            lambda: _optional(folder / MISTAKES_FILE, Mistakes), "the pictures are left out"
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
            environment=environment[0] if environment else {},
            described=environment[1] if environment else Described(),
            stages=_stages(events, folder / METRICS_FILE),
            epochs=_epochs(events, folder / METRICS_FILE),
            summary=summary,
            analysis=analysis,
            torn=metrics.torn,
            damage=tuple(damage.sentences),
            mistakes=mistakes,
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


def epoch_of(run: str | Path, number: int) -> Epoch | None:
    """An epoch of the last stage of a run, finished or not; None where it has not had that.

    Raises:
        NotFound: there is no run. CorruptFile: one of its files is damaged.
    """
    found = Run.load(run)
    last = found.stages[-1] if found.stages else None
    if last is None or last.number < last.count:
        return None
    return next(
        (each for each in found.epochs if (each.stage, each.epoch) == (last.stage, number)), None
    )


# ---- reading -------------------------------------------------------------------------------------


def _optional(path: Path, kind: type[T]) -> T | None:
    return from_dict(kind, read_record(path), path) if path.exists() else None


def _environment(folder: Path) -> tuple[dict[str, Any], Described]:
    path = folder / ENVIRONMENT_FILE
    content = read_record(path) if path.exists() else {}
    return content, from_dict(Described, content, path)


@dataclass(frozen=True, slots=True)
class _Images:
    exclude_classes: tuple[str | int, ...] = ()
    per_class: int | None = None
    select: str = "random"
    select_temperature: float = 9.0


@dataclass(frozen=True, slots=True)
class _Tables:
    """What is read of a recipe without its schema, which may be that of another version."""

    name: str | None = None
    data: _Images | None = None
    method: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    student: dict[str, Any] | None = None


def read_recipe(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a resolved recipe, and its tables.

    Raises:
        CorruptFile: it is not TOML.
    """
    try:
        text = read_bytes(path, MAX_RECIPE_BYTES).decode()
        recipe = parse_toml(text)
    except ValueError as error:
        raise CorruptFile(f"{path} cannot be read as TOML: {error}", hint=DAMAGED) from error
    from_dict(_Tables, recipe, path)
    return text, recipe


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
