"""Optimiser steps: forward, backward, optimiser, meters. The trainer knows when, and what comes
after each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kdcli.core.carried import Carried
from kdcli.core.class_weights import weighing
from kdcli.core.method import Method, on_labels
from kdcli.core.mixed_labels import mixing
from kdcli.core.penalties import penalising
from kdcli.core.types import Batch, Draw, Feed, Progress, Step
from kdcli.engine.distributed import Forward
from kdcli.engine.meters import Meters
from kdcli.engine.runtime import Runtime
from kdcli.engine.separate_momenta import SeparateMomenta
from kdcli.engine.settings import TrainSettings
from kdcli.errors import Incompatible

Group = Sequence[Batch | Draw]
Seed = Callable[[int], None]


def pace_of(group: Group) -> float:
    """The factor of a step's learning rate, by the length of its minibatches."""
    paces = [batch.pace for batch in group if isinstance(batch, Batch)]
    return sum(paces) / len(paces) if paces else 1.0


@dataclass(frozen=True, slots=True)
class StageParts:
    """The parts of a stage that steps need.

    forward: its loss, whose gradients are averaged over ranks where there are several. optimiser:
    of what it trains. carried: what networks remember of a text.
    check: raises where the meters have seen a loss that is not finite.
    """

    forward: Forward
    optimiser: torch.optim.Optimizer
    check: Callable[[], None]
    carried: Carried = field(default_factory=Carried)


def _sum(terms: Sequence[Tensor], share: float) -> Tensor | None:
    """A part of a loss by its share; None where there are no terms."""
    return torch.stack(list(terms)).sum() * share if terms else None


class Steps:
    """The optimiser steps of one stage. The method is asked for its teachers, which are told what
    comes.
    """

    def __init__(
        self,
        method: Method,
        feed: Feed,
        runtime: Runtime,
        settings: TrainSettings,
        parts: StageParts,
    ) -> None:
        self.method = method
        self.feed = feed
        self.runtime = runtime
        self.settings = settings
        self.optimiser = parts.optimiser
        self.forward = parts.forward
        self.carried = parts.carried
        self._check = parts.check
        self._reads_losses = runtime.synchronous
        self._terms: frozenset[str] = frozenset()  # of the method's own loss

    def groups(self, epoch: int, start: int) -> Iterator[Group]:
        """The minibatches of an epoch from number `start` on, in groups of `accumulate`: one step's
        each.
        """
        coming = self._coming(epoch, start)
        while group := list(islice(coming, self.settings.accumulate)):
            yield group

    def _coming(self, epoch: int, start: int) -> Iterator[Batch]:
        """Minibatches, read so far ahead that teachers can answer several at once."""
        batches = iter(self.feed.train(epoch, start))
        while next_ones := list(islice(batches, self.runtime.ahead)):
            placed = [self.runtime.place(batch) for batch in next_ones]
            for teacher in self.method.teacher_nets:
                teacher.expect(placed)
            yield from placed

    def take(self, group: Group, at: Progress, meters: Meters, seed: Seed) -> int:
        """Takes one step; returns how many images it saw, on all ranks.

        Args:
            seed: gives torch's global generators the state that belongs to minibatch number so many
                of the group.

        Raises:
            NonFiniteLoss: where reading the loss costs nothing; elsewhere whoever reads the meters
                finds it.
            OutOfMemory: the group does not fit.
        """
        images, ranks = 0, self.runtime.ranks
        for offset, minibatch in enumerate(group):
            whole = self.batch(minibatch)  # x [B,...], y [B]
            seed(offset)
            images += whole.whole or len(whole.y)
            batch = ranks.share(whole)  # this rank's rows of it
            # gradients add up over the group; ranks average them once, after its last minibatch
            with ranks.accumulating(self.forward, last=offset == len(group) - 1):
                step = self.forward_backward(batch, at, len(group), meters)
            meters.update(
                step,
                batch.y,
                None if self._reads_losses else at.step + 1,
                counts=ranks.counts(batch),
            )
        self.update()
        return images

    def batch(self, minibatch: Batch | Draw) -> Batch:
        """A minibatch as the networks take it."""
        if isinstance(minibatch, Batch):
            return minibatch
        return self.runtime.place(self.feed.view(minibatch.index, minibatch.view))

    def forward_backward(self, batch: Batch, at: Progress, parts: int, meters: Meters) -> Step:
        """Loss and gradients of one of the `parts` minibatches of a step."""
        with (
            self.memory_errors(at, len(batch.y)),
            self.runtime.stepping(batch),
            self.runtime.autocast(),
            weighing(self.settings.class_weights),
            mixing(batch.mixed),
            self.carried.window(batch),
            penalising() as penalties,
        ):
            step = self.forward(batch, at)  # losses: scalars, weighted; logits [N,K]
        self._terms = frozenset(step.losses)
        if penalties:
            step = step._replace(losses={**step.losses, **penalties})
        # the total in float32, whatever precision the forward pass had
        terms = [value.float() for value in step.losses.values()]
        total = terms[0] if len(terms) == 1 else torch.stack(terms).sum()
        if self._reads_losses and not math.isfinite(total.item()):
            meters.update(step, batch.y, at.step + 1)
            self._check()
        # a step's gradient: the mean over the samples of all ranks, then over its minibatches
        share = self.runtime.ranks.weight(batch) / parts
        with self.memory_errors(at, len(batch.y)):
            if isinstance(self.optimiser, SeparateMomenta):
                self.optimiser.collect(*(_sum(part, share) for part in self._divided(step, at)))
            else:
                self.runtime.backward(total * share)
        return step

    def _divided(self, step: Step, at: Progress) -> tuple[list[Tensor], list[Tensor]]:
        """The terms of a loss on labels, penalties on the network among them, and the others.

        Raises:
            Incompatible: there are none of a kind in a method's only stage.
        """
        own = {name: on_labels(name) or name not in self._terms for name in step.losses}
        labels, rest = (
            [value.float() for name, value in step.losses.items() if own[name] == wanted]
            for wanted in (True, False)
        )
        if not (labels and rest) and len(self.method.stages()) == 1:
            raise Incompatible(
                "optim.dot keeps gradients of labels and of the teacher apart, and the loss of "
                f"stage {at.stage} has no two parts: its terms are {', '.join(step.losses)}",
                hint="leave optim.dot out; terms on labels are called ce, or end in _ce",
            )
        return labels, rest

    def update(self) -> None:
        """Clips, takes the optimiser's step and clears the gradients."""
        if isinstance(self.optimiser, SeparateMomenta):
            self.optimiser.agree(self.runtime.ranks)
            if self.settings.clip_norm is not None:
                self.optimiser.clip(self.settings.clip_norm)
            self.optimiser.step()
            return
        self.runtime.step(self.optimiser, self.settings.clip_norm)

    def memory_errors(self, at: Progress, size: int) -> AbstractContextManager[Any]:
        """Turns out of memory into a sentence on minibatches of so many images."""
        return self.runtime.memory_errors(
            f"at stage {at.stage}, epoch {at.epoch}, step {at.step + 1} (batch {size}, "
            f"{self.runtime.precision_choice.value})",
            (
                f"-s train.batch_size={max(size // 2, 1)} -s "
                f"train.accumulate={self.settings.accumulate * 2}   (same effective batch)"
            ),
        )
