"""All that a listener may hear: the engine's events, and those of the jobs around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdcli.engine.events import EpochDone, StageDone, StageStarted, StateSaved, StepDone
from kdcli.results import TeacherSummary

__all__ = ["CellDone", "CellStarted", "EpochDone", "Event", "Listener", "Prepared", "StageDone", "StageStarted", "StateSaved", "StepDone"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything is built and checked; training begins next. What the first lines of a run's screen show."""

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
    notes: tuple[str, ...] = ()
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


Event = StageStarted | StepDone | EpochDone | StateSaved | StageDone | Prepared | CellStarted | CellDone
Listener = Callable[[Event], None]
