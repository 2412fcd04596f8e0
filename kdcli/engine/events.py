"""Events of the trainer. Listeners are the only output: files, progress display and checkpoints
hang here.

The values of a StepDone stay on the device; whoever reads one pays for the synchronisation, so
listeners read few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from kdcli.core.types import Progress
from kdcli.results.dynamics import Snapshot
from kdcli.results.measures import Measures


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins (or goes on, when resumed). number counts from 1. network: which of several
    this stage is about, or "".
    probe: before its first step; None where nothing is probed, or the stage goes on.
    """

    at: Progress
    number: int
    count: int
    batches: int  # minibatches an epoch
    trainable: int  # parameters that get gradients
    network: str = ""
    probe: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class StepDone:
    """One minibatch went through. batch counts from 1 within the epoch; losses are running means of
    the epoch.
    """

    at: Progress
    batch: int
    batches: int
    lr: float
    losses: Mapping[str, Tensor]
    correct: Tensor
    seen: int
    images_per_second: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch ended. losses are means over its images; val is None where nothing is held out,
    probe where nothing is probed, agreement where no patience looks at it.
    """

    at: Progress
    lr: float
    losses: Mapping[str, float]
    train_accuracy: float
    val: Measures | None
    best: bool  # the best validation accuracy so far
    seconds: float
    images_per_second: float
    probe: Snapshot | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Compiling:
    """Networks are compiled, in the first step of a stage: seconds is None before it, and what it
    took after it. expected: seconds that it is likely to take; None where nothing tells.
    """

    at: Progress
    seconds: float | None = None
    expected: float | None = None


@dataclass(frozen=True, slots=True)
class Storing:
    """A teacher's answers to a text are stored before training: so many rows of all."""

    stored: int
    rows: int


@dataclass(frozen=True, slots=True)
class StepsCaptured:
    """From here on the steps of a stage are replayed from a CUDA graph, or they are not: reason is
    empty, or says why.
    """

    at: Progress
    reason: str

    def __str__(self) -> str:
        return (
            f"steps are taken without a CUDA graph: {self.reason}"
            if self.reason
            else "steps are replayed from a CUDA graph"
        )


@dataclass(frozen=True, slots=True)
class StateSaved:
    """The state for `kd resume` is on disk."""

    at: Progress
    path: str
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class StageDone:
    """A stage ended."""

    at: Progress
    number: int
    count: int


Event = StageStarted | Compiling | StepsCaptured | StepDone | EpochDone | StateSaved | StageDone
Listener = Callable[[Event], None]
