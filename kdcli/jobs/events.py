"""All that a listener may hear: the engine's events, and those of the jobs around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdcli.core.types import Progress
from kdcli.engine.events import (
    Compiling,
    EpochDone,
    StageDone,
    StageStarted,
    StateSaved,
    StepDone,
    StepsCaptured,
    Storing,
)
from kdcli.results.run import TeacherSummary
from kdcli.results.search import Trial

__all__ = [
    "CellDone",
    "CellStarted",
    "Compiling",
    "Decoding",
    "EpochDone",
    "Event",
    "FromRun",
    "Listener",
    "Prepared",
    "RunEvent",
    "StageDone",
    "StageStarted",
    "StateSaved",
    "StepDone",
    "StepRead",
    "StepsCaptured",
    "Storing",
    "SweepStarted",
    "TeacherDone",
    "TeacherStarted",
    "TrialDone",
]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything is built and checked; training begins next. What the first lines of a run's screen
    show.
    """

    command: Literal["train-teacher", "distill"]
    run: str
    network: str
    parameters: int
    teachers: tuple[TeacherSummary, ...]
    data: str
    train: int
    val: int
    test: int
    classes: int
    input_shape: tuple[int, int, int]
    device: str
    device_name: str
    device_reason: str
    precision: str
    precision_reason: str
    method: str
    method_options: Mapping[str, Any]
    method_source: str
    epochs: int
    batches: int
    batch_size: int
    optimiser: str
    lr: float
    schedule: str
    devices: int = 1
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    resumed_at: str | None = None


@dataclass(frozen=True, slots=True)
class CellStarted:
    """A cell of a sweep begins. number counts from 1."""

    number: int
    count: int
    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CellDone:
    """A cell of a sweep ended, or needed no work."""

    number: int
    count: int
    id: str
    labels: Mapping[str, str]
    status: Literal["done", "skipped", "failed"]
    run: str | None = None
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepStarted:
    """Several runs of a sweep are about to go on at once.

    cells: of the whole sweep. runs: what there is to do, the teachers among them counted. jobs:
    processes. threads: CPU threads of each. device: "cpu" or "cuda:INDEX". pinned: whether each
    process keeps to cores of its own.
    """

    cells: int
    runs: int
    teachers: int
    jobs: int
    threads: int
    device: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class TeacherStarted:
    """A teacher that cells of a sweep wait for begins. id: short form of its recipe's hash."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class TeacherDone:
    """A teacher that cells of a sweep wait for is there, or is not."""

    id: str
    name: str
    status: Literal["done", "skipped", "failed"]
    run: str | None = None
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRead:
    """A minibatch of a run in another process went through: a StepDone whose values were read
    there, now and then.
    """

    at: Progress
    batch: int
    batches: int
    lr: float
    losses: Mapping[str, float]
    train_accuracy: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class FromRun:
    """What one of several runs at once says. id: of the cell, or of the teacher. number: of the
    cell, 0 for a teacher.
    """

    id: str
    number: int
    name: str
    event: RunEvent


@dataclass(frozen=True, slots=True)
class TrialDone:
    """A trial of a search has reached a rung, or failed. label: its parameters in a few words.
    count: trials in all. epochs: of the last rung.
    """

    trial: Trial
    label: str
    count: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Decoding:
    """Pictures are decoded for their cache before training: so many of all."""

    decoded: int
    pictures: int


RunEvent = (
    StageStarted
    | Decoding
    | Compiling
    | Storing
    | StepsCaptured
    | StepDone
    | StepRead
    | EpochDone
    | StateSaved
    | StageDone
    | Prepared
)
Event = (
    RunEvent
    | CellStarted
    | CellDone
    | SweepStarted
    | TeacherStarted
    | TeacherDone
    | FromRun
    | TrialDone
)
Listener = Callable[[Event], None]
