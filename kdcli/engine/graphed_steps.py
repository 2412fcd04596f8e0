"""Steps as CUDA graphs: small networks are bound by the hundreds of kernels that the host launches
a step, not by arithmetic.

A graph holds a whole step, from the samples' numbers to the meters, and lives for one epoch, in
which everything but the position is constant: learning rate, number of the step and samples lie on
the device, and torch's generators are seeded before each replay. Two steps of each epoch are taken
as usual and watched, the third is captured. Where a step cannot be captured, because its loss looks
at the position or makes the host wait, the reason is told and all steps are taken as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import torch

from kdcli.core.method import Method
from kdcli.core.types import Batch, Draw, Feed, Progress, Step
from kdcli.engine.cuda_graphs import Recorder
from kdcli.engine.host_sync import Waits
from kdcli.engine.meters import Meters
from kdcli.engine.runtime import Runtime
from kdcli.engine.settings import TrainSettings
from kdcli.engine.steps import Group, Seed, StageParts, Steps

# only the last may not wait: in the first a full table of logits is copied to the device, say
_WATCHED_STEPS = 2


def hindrance(feed: Feed, runtime: Runtime, settings: TrainSettings) -> str:
    """The reason why no step of a run can be captured, as a part of a sentence; empty if there is
    none.
    """
    reasons = {
        "several devices share each minibatch": runtime.ranks.size > 1,
        "pictures are decoded as they are needed": not feed.resident,
        "pictures of a minibatch are mixed": settings.mixes,
        "gradients of labels are kept apart (optim.dot)": settings.optim.divides,
        "a step has several minibatches (train.accumulate)": settings.accumulate > 1,
        "fp16 scales its losses": runtime.dtype == torch.float16,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class CapturedSteps(Steps):
    """The steps of a stage, replayed where they can be.

    Args:
        recorder: makes the graphs.
        tell: told once for each reason, and once with an empty one when a graph serves.
    """

    def __init__(
        self,
        method: Method,
        feed: Feed,
        runtime: Runtime,
        settings: TrainSettings,
        parts: StageParts,
        recorder: Recorder,
        tell: Callable[[str], None],
    ) -> None:
        super().__init__(method, feed, runtime, settings, parts)
        self._recorder = recorder
        self._tell = tell
        self._told: set[str] = set()
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._taken = 0
        self._size = 0  # of its first minibatch: a smaller last one is taken as usual
        self._refused = ""
        self._replay: Callable[[Draw], None] | None = None

    def groups(self, epoch: int, start: int) -> Iterator[Group]:
        """One minibatch each; as numbers of samples while the graph is to look them up."""
        self._begin_epoch()
        for number, draw in enumerate(self.feed.draws(epoch, start), start):
            if self._refused:
                yield from super().groups(epoch, number)
                return
            self._size = max(self._size, len(draw.index))
            yield [draw]

    def take(self, group: Group, at: Progress, meters: Meters, seed: Seed) -> int:
        """Takes one step, in whatever way."""
        (minibatch,) = group
        if isinstance(minibatch, Batch) or len(minibatch.index) != self._size:
            return super().take(group, at, meters, seed)
        self._taken += 1
        if self._taken <= _WATCHED_STEPS:
            return self._take_watched(group, at, meters, seed)
        if self._replay is None:
            self._replay = self._captured(minibatch, at, meters)
        if self._replay is None:
            return super().take(group, at, meters, seed)
        seed(0)
        self._replay(minibatch)
        meters.count(self._size)
        return self._size

    def _take_watched(self, group: Group, at: Progress, meters: Meters, seed: Seed) -> int:
        plain, looks = self.forward, list[str]()
        waits = Waits()

        def watched(batch: Batch, at: Progress) -> Step:
            return plain(batch, _Watched.of(at, looks))

        self.forward = watched
        try:
            with ExitStack() as watch:
                # compiled code does not run where operations are watched
                if self.runtime.compile_choice.value != "on":
                    watch.enter_context(waits)
                images = super().take(group, at, meters, seed)
        finally:
            self.forward = plain
        if looks:
            self._refuse("its loss depends on the step")
        elif waits.places and self._taken == _WATCHED_STEPS:
            self._refuse(f"it makes the host wait: {waits.places[0]}")
        return images

    def _refuse(self, reason: str) -> None:
        self._refused = reason
        self._say(reason)

    def _say(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            self._tell(reason)

    def _captured(self, draw: Draw, at: Progress, meters: Meters) -> Callable[[Draw], None] | None:
        """A function that takes a step with other samples, on the device alone; None if the graph
        cannot be made.
        """
        held = Draw(draw.index.clone(), draw.view.clone())  # where the graph looks its samples up
        number = torch.full((), at.step, dtype=torch.int64, device=draw.index.device)

        def work() -> None:
            batch = self.batch(held)
            number.add_(1)
            step = self.forward_backward(batch, at, 1, meters)
            meters.add(step, batch.y, number, len(held.index))
            self.update()

        try:
            with self.memory_errors(at, len(held.index)):
                again = self._recorder.record(work)
        except RuntimeError as error:  # torch has no type for what a device cannot capture
            self.optimiser.zero_grad(set_to_none=True)
            first_line, _, _ = str(error).partition("\n")
            self._refuse(f"the device refused: {first_line}")
            return None
        self._say("")

        def replay(other: Draw) -> None:
            held.index.copy_(other.index)
            held.view.copy_(other.view)
            again()

        return replay


class _Watched(Progress):
    """A position that notes it when somebody looks at its step."""

    @classmethod
    def of(cls, at: Progress, looks: list[str]) -> _Watched:
        made = cls(*(getattr(at, field.name) for field in fields(at)))
        object.__setattr__(made, "looks", looks)
        return made

    def __getattribute__(self, name: str) -> Any:
        if name == "step":
            object.__getattribute__(self, "looks").append(name)
        return object.__getattribute__(self, name)
