"""Teachers: frozen networks that answer, and that nothing can train, save or wrap by accident.

Deliberately not nn.Modules: a Method that holds one does not register it, so no teacher key can
reach a student's checkpoint, no optimiser its weights and no `train()` its batch norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcli.core.known_answers import KnownAnswers
from kdcli.core.merged_classes import MergedClasses
from kdcli.core.network import Network
from kdcli.core.types import Batch, Output, Sees, SplitName, filled_up


class Teacher:
    """A frozen network in eval mode.

    Args:
        network: already on the device.
        renormalise: (scale, shift), each [C]: takes the data's normalised pixels to those that the
            teacher was trained on, x * scale + shift; None where both normalise alike.
        sees: what it sees, where that is not x: pictures of another size, or resized in another
            way, or another view of them. Batches hold them beside x, normalised for it.
        epoch: epochs of training that its weights have had, where its checkpoint says so.

    known: what it has answered where it was measured, kept for other runs; None where nothing is.
    """

    epoch: int | None = None
    known: KnownAnswers | None = None
    sees: Sees | None = None

    def __init__(
        self,
        network: Network,
        *,
        renormalise: tuple[Tensor, Tensor] | None = None,
        epoch: int | None = None,
        sees: Sees | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.epoch = epoch
        self.sees = sees
        self.renormalise = (
            None if renormalise is None else tuple(part.view(1, -1, 1, 1) for part in renormalise)
        )

    @property
    def live(self) -> Teacher:
        """The teacher as its checkpoint has it, where this one looks answers up or computes them by
        a faster copy: for measurements.
        """
        return self

    def of(self, split: SplitName) -> Teacher | None:  # noqa: ARG002  who has a network answers anything
        """Who answers the samples of a split as they are, where somebody measures: itself, unless
        its answers are ready-made or known; None where there are none for that split.
        """
        return self if self.known is None else _Remembering(self, self.known)

    @property
    def num_classes(self) -> int:
        if isinstance(self.network, MergedClasses):
            return self.network.num_classes
        return self.network.head.out_features

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        """Logits [N,K] and taps for a batch, without gradient."""
        with torch.no_grad():
            return self.network(self.seen(batch), taps)  # type: ignore[no-any-return]

    def expect(self, batches: Sequence[Batch]) -> None:
        """Told the minibatches that it will be asked about next: one that answers many images at
        less cost does it now.
        """

    def seen(self, batch: Batch) -> Tensor:
        """The images [B,C,H,W] of a batch, as those that the teacher was trained on."""
        if self.sees is not None:
            return batch.others[self.sees]
        if self.renormalise is None:
            return batch.x
        scale, shift = self.renormalise
        return batch.x * scale + shift


class _Remembering(Teacher):
    """A teacher that is asked only about what it has not answered before."""

    def __init__(self, asked: Teacher, known: KnownAnswers) -> None:
        self._asked = asked
        self._known = known
        self.network, self.epoch, self.sees = asked.network, asked.epoch, asked.sees
        self.renormalise = asked.renormalise

    @property
    def live(self) -> Teacher:
        return self._asked

    def of(self, split: SplitName) -> Teacher | None:  # noqa: ARG002  as its teacher
        return self

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        def ask(places: Tensor) -> Output:
            rows = len(batch.y)
            if len(places) == rows:
                return self._asked(batch, taps)
            part = batch.each(lambda each: filled_up(each[places], rows))
            return self._asked(part, taps)

        return self._known.answer(ask, self.seen(batch), taps)


class Ensemble(Teacher):
    """Several teachers that answer as one: the weighted mean of their logits. Taps are the first
    teacher's.

    Args:
        teachers: at least one.
        weights: one a teacher, summing to 1; equal unless given.
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float] | None = None) -> None:
        self.teachers = tuple(teachers)
        self.weights = (
            tuple(weights)
            if weights is not None
            else (1.0 / len(self.teachers),) * len(self.teachers)
        )
        self.network = self.teachers[0].network

    @property
    def live(self) -> Teacher:
        return Ensemble([teacher.live for teacher in self.teachers], self.weights)

    def of(self, split: SplitName) -> Teacher | None:
        each = [teacher.of(split) for teacher in self.teachers]
        there = [teacher for teacher in each if teacher is not None]
        return Ensemble(there, self.weights) if len(there) == len(each) else None

    def expect(self, batches: Sequence[Batch]) -> None:
        for teacher in self.teachers:
            teacher.expect(batches)

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        outputs = [
            teacher(batch, taps if position == 0 else ())
            for position, teacher in enumerate(self.teachers)
        ]
        logits = torch.stack(
            [
                output.logits.float() * weight
                for output, weight in zip(outputs, self.weights, strict=True)
            ]
        )
        return Output(logits.sum(0), outputs[0].taps)
