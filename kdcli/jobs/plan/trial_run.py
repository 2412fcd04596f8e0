"""The trial run of a job, timed: a few minibatches of each stage, and all that comes around them.

It is the run's own code on the run's own networks and data. Three things differ. Few minibatches
make an epoch, and three epochs a stage. Of a split that takes long to measure, only a part is. The
learning rate is 0, so that nothing can diverge under a teacher that is not trained yet. What it
writes goes to a folder that the caller throws away.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from kdcli.core.network import Network
from kdcli.core.types import Batch, DataInfo, Draw, Feed, Sees, SplitName
from kdcli.data.feed import SourceFeed
from kdcli.engine.checkpoint import STATES_KEPT, save_model
from kdcli.engine.trainer import Hooks, Trainer
from kdcli.jobs.build.engine_settings import train_settings
from kdcli.jobs.build.header import make_header
from kdcli.jobs.build.job import Job
from kdcli.jobs.events import Event, StageDone, StateSaved
from kdcli.jobs.train.execution import Execution
from kdcli.jobs.train.run import reserve_run
from kdcli.recipe.resolve import Resolved
from kdcli.results.run import RunResult
from kdcli.results.weights_header import KEPT_FOLDER, MODEL_FILE
from kdcli.runs import folder as run_folder

T = TypeVar("T")

# of each stage: the first meets what nobody has met, such as answers that are not stored; between
# the others is the usual gap
EPOCHS = 3
_WARM = 4  # minibatches of the first epoch that are not timed
_STEPS = 10  # minibatches of each epoch that are
_FEWER = 4  # enough of them where they take long
_LONG = 5.0  # seconds
# seconds that an epoch goes on for at least, if it has so many minibatches: a few short ones would
# say little
_SHORT = 0.5
# minibatches between looks at the clock where looking makes the device wait, or workers deliver
# several at a time
_BLOCK = 10


class Clock:
    """A clock that is read once the device has done its work."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self.waits = self._cuda is not None
        self.spent: dict[str, list[float]] = defaultdict(list)

    def __call__(self) -> float:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        return time.perf_counter()

    def timed(self, name: str, function: Callable[..., T]) -> Callable[..., T]:
        """The function, with the seconds of each call noted under a name."""

        def call(*given: Any) -> T:
            start = self()
            found = function(*given)
            self.spent[name].append(self() - start)
            return found

        return call


@dataclass(slots=True)
class Pass:
    """An epoch of a trial run. marks: minibatches trained on and the time then; the first are 0.
    warm: minibatches that are not timed.
    """

    warm: int
    marks: list[tuple[int, float]] = field(default_factory=list)

    @property
    def begun(self) -> float:
        return self.marks[0][1]

    @property
    def ended(self) -> float:
        return self.marks[-1][1]

    @property
    def count(self) -> int:
        """The number of minibatches."""
        return self.marks[-1][0]

    def each(self) -> list[float]:
        """Seconds a minibatch, between two readings of the clock each; without those that warm up,
        if others are left.
        """
        timed = [
            ((later - at) / (count - number), number)
            for (number, at), (count, later) in pairwise(self.marks)
        ]
        return [seconds for seconds, number in timed if number >= self.warm] or [
            seconds for seconds, _ in timed[-1:]
        ]


class ShortFeed:
    """A feed whose epochs are short and whose splits are no longer than some seconds of measuring;
    it notes how long both took.

    Args:
        feed: the real one.
        clock: of the trial run.
        group: minibatches that are read together: only between such groups have all been trained on
            that were read.
        again: give the same minibatches in all epochs of a stage, so that answers are met that are
            stored.
        patience: seconds for the first network that goes through a split; the others get as much of
            the split.
    """

    def __init__(
        self, feed: Feed, clock: Clock, *, group: int, again: bool, patience: float
    ) -> None:
        self._feed = feed
        self._clock = clock
        self._again = again
        self._patience = patience
        self._batches: dict[SplitName, int] = {}
        self.passes: list[Pass] = []
        self.measured: dict[SplitName, int] = {}  # images
        workers = feed.plan.workers if isinstance(feed, SourceFeed) and not feed.resident else 0
        waits = clock.waits or workers > 0
        self._block = group * -(-_BLOCK // group) if waits else group
        # what workers have ready when training begins says nothing about how fast they are
        self._warm = -(-(_WARM + 2 * workers) // self._block) * self._block

    @property
    def info(self) -> DataInfo:
        return self._feed.info

    @property
    def train_batches(self) -> int:
        return self._feed.train_batches

    def size(self, name: SplitName) -> int:
        return self._feed.size(name)

    def positions(self, name: SplitName) -> tuple[Tensor, int]:
        return self._feed.positions(name)

    def files(self, name: SplitName) -> tuple[str, ...]:
        return self._feed.files(name)

    def showing(self, others: Sequence[Sees]) -> ShortFeed:
        made = copy.copy(self)  # notes go to the same places
        made._feed = self._feed.showing(others)  # noqa: SLF001  of this very class
        return made

    def sample(self, name: SplitName, count: int) -> Iterator[Batch]:
        return self._feed.sample(name, count)

    def pixels(self, name: SplitName, index: Tensor) -> Tensor:
        return self._feed.pixels(name, index)

    def view(self, index: Tensor, view: Tensor) -> Batch:
        return self._feed.view(index, view)

    @property
    def resident(self) -> bool:
        return self._feed.resident

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self._pass(self._feed.train, epoch, start)

    def draws(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        return self._pass(self._feed.draws, epoch, start)

    def _pass(
        self, minibatches: Callable[[int, int], Iterator[T]], epoch: int, start: int
    ) -> Iterator[T]:
        stage, place = divmod(len(self.passes), EPOCHS)
        this = Pass(self._warm if place == 0 else 0)
        self.passes.append(this)
        most = self.passes[-1 - place].count if place and self._again else None
        number = 0
        for number, batch in enumerate(minibatches(stage + 1 if self._again else epoch, start)):
            if number % self._block == 0:  # so all before this one have been trained on
                this.marks.append((number, self._clock()))
                if number == most or self._enough(this):
                    return
            yield batch
        this.marks.append((number + 1, self._clock()))

    @staticmethod
    def _enough(this: Pass) -> bool:
        timed = [(number - this.warm, at) for number, at in this.marks if number >= this.warm]
        if not timed or timed[-1][0] == 0:
            return False
        count, elapsed = timed[-1][0], timed[-1][1] - timed[0][1]
        return (count >= _STEPS and elapsed >= _SHORT) or (count >= _FEWER and elapsed >= _LONG)

    def split(self, name: SplitName) -> Iterator[Batch]:
        start, images, number = self._clock(), 0, 0
        for number, batch in enumerate(self._feed.split(name), 1):
            yield batch
            images += len(batch.y)
            if number == self._batches.get(name) or (
                name not in self._batches and self._clock() - start > self._patience
            ):
                break
        self._batches.setdefault(name, number)
        self.measured[name] = images
        self._clock.spent[name].append(self._clock() - start)

    def left_out(self, name: SplitName) -> float:
        """The images of a split that were not measured, as a multiple of those that were."""
        return self.size(name) / self.measured[name] - 1 if self.measured.get(name) else 0.0


@dataclass(frozen=True, slots=True)
class TrialStage:
    """A stage: its epochs, when it began and ended, and what evaluation and probe took after the
    second epoch.
    """

    name: str
    epochs: int | None
    passes: tuple[Pass, ...]
    seconds: float
    evaluation: float
    validating: float  # of that, the networks at work on the held-out images
    probe: float


@dataclass(frozen=True, slots=True)
class TrialRun:
    """A trial run that is over.

    run: its folder. feed: knows what was left out. Seconds: preparing, before the first stage;
    after the last, testing and validating, the networks at work on images, analysing what they
    answered, and writing it all down.
    """

    run: Path
    result: RunResult
    feed: ShortFeed
    stages: tuple[TrialStage, ...]
    preparing: float
    testing: float
    validating: float
    analysing: float
    writing: float
    state_bytes: int


def try_run(job: Job, resolved: Resolved, folder: Path, *, patience: float) -> TrialRun:
    """Tries a job out.

    Args:
        job: assembled as a trial run; its networks are of no use afterwards.
        folder: where everything is written.
        patience: seconds for the first network that goes through a split.

    Raises:
        OutOfMemory: at a minibatch; the message says what to set.
    """
    clock = Clock(job.runtime.device)
    again = any(stored.teacher is not None for stored in job.stored)
    feed = ShortFeed(
        job.feed,
        clock,
        group=math.lcm(job.recipe.train.accumulate, job.runtime.ahead),
        again=again,
        patience=patience,
    )
    small = replace(job, feed=feed, compiled=folder / "compiled.json")
    began = clock()
    run = reserve_run(small, resolved, folder, "")
    execution = Execution(run, small, (), (), keep_state=False)
    watch = _Watch(clock)
    trainer = _trainer(execution, feed, watch)
    preparing = clock() - began
    watch.marks.append((clock(), 0, 0, 0))
    trained = trainer.run()
    names = [(stage.name, stage.epochs) for stage in job.method.stages()]
    stages = tuple(_stages(names, feed, clock, watch))
    before = {name: sum(clock.spent[name]) for name in ("test", "val")}
    ended = clock()
    result = execution.conclude(trainer, trained)
    # the result is made when all is measured and nothing is written
    measured = execution.started + result.wall_seconds
    testing, validating = (sum(clock.spent[name]) - before[name] for name in ("test", "val"))
    analysing, writing = measured - ended - testing - validating, clock() - measured
    return TrialRun(
        run,
        result,
        feed,
        stages,
        preparing,
        testing,
        validating,
        analysing,
        writing,
        STATES_KEPT * watch.state_bytes,
    )


class _Watch:
    """A listener that notes when stages end, what was measured until then, and a state's size."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.marks: list[tuple[float, int, int, int]] = []
        self.state_bytes = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageDone):
            spent = self._clock.spent
            self.marks.append(
                (self._clock(), len(spent["evaluation"]), len(spent["val"]), len(spent["probe"]))
            )
        elif isinstance(event, StateSaved):
            self.state_bytes = max(self.state_bytes, Path(event.path).stat().st_size)


def _trainer(execution: Execution, feed: ShortFeed, watch: _Watch) -> Trainer:
    """The run's trainer, with short stages that change nothing."""
    job, clock = execution.job, watch._clock  # noqa: SLF001  two parts of one thing
    hooks: Hooks = execution.hooks(lambda: None)
    hooks = replace(
        hooks,
        listeners=(*hooks.listeners, watch),
        evaluate=clock.timed("evaluation", hooks.evaluate),
        probe=clock.timed("probe", hooks.probe),
    )
    settings = replace(train_settings(job.recipe, job.class_weights), epochs=EPOCHS)
    trainer = Trainer(
        job.method,
        feed,
        job.runtime,
        settings,
        hooks=hooks,
        state_folder=execution.run / run_folder.STATE_FOLDER,
    )
    trainer.stages = [
        replace(stage, epochs=EPOCHS, optim={**stage.optim, "lr": 0.0}) for stage in trainer.stages
    ]
    return trainer


def _stages(
    names: list[tuple[str, int | None]], feed: ShortFeed, clock: Clock, watch: _Watch
) -> Iterator[TrialStage]:
    for number, ((name, epochs), (before, after)) in enumerate(
        zip(names, pairwise(watch.marks), strict=True)
    ):
        passes = tuple(feed.passes[number * EPOCHS : (number + 1) * EPOCHS])

        def usual(what: str, since: int, until: int) -> float:
            found = clock.spent[what][since:until]
            # after the second epoch; the last one is no different
            return found[-2] if len(found) >= EPOCHS else 0.0

        evaluation, validating, probe = (
            usual(what, int(before[place]), int(after[place]))
            for place, what in enumerate(("evaluation", "val", "probe"), 1)
        )
        yield TrialStage(name, epochs, passes, after[0] - before[0], evaluation, validating, probe)


def stand_in(job: Job, trial: TrialRun) -> Path:
    """Gives a trial run the files of a teacher that has learnt nothing, so that a student can be
    planned under it. Returns its folder.
    """
    network: Network = job.method.deployable()
    train = job.recipe.train
    save_model(trial.run / MODEL_FILE, network, make_header(job, network, None, "", train.epochs))
    if train.keep_every:
        kept = trial.run / KEPT_FOLDER
        kept.mkdir(exist_ok=True)
        for epoch in range(train.keep_every, train.epochs + 1, train.keep_every):
            (kept / f"epoch-{epoch:03d}.safetensors").unlink(missing_ok=True)
            (kept / f"epoch-{epoch:03d}.safetensors").symlink_to(trial.run / MODEL_FILE)
    return trial.run
