"""Running sums of an epoch that stay on the device: nothing in the step waits for the device to
answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from kdcli.core.method import on_labels
from kdcli.core.types import UNLABELLED, Step
from kdcli.engine.distributed import Ranks

_NEVER = 2**62


class Meters(Mapping[str, Tensor]):
    """Means of the loss terms over the images seen so far, by name; each is computed when it is
    looked up.

    Also counts correct predictions, and remembers the first step at which a term was not finite.

    Args:
        labels: whether any image has a label; where none has, terms on labels have no mean.
    """

    def __init__(self, device: torch.device, *, labels: bool = True) -> None:
        self._device = device
        self._labels = labels
        self._sums: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.labelled = torch.zeros_like(self.correct)
        self.seen = 0

    def update(
        self, step: Step, targets: Tensor, number: int | None, *, counts: bool = True
    ) -> None:
        """Adds a minibatch's terms, weighted by its size.

        Args:
            number: of the optimiser step, to name it if a term is bad; None where they are known to
                be finite.
            counts: False where another rank counts the same images; a bad term is noted all the
                same.
        """
        size = targets.shape[0] * counts
        self.add(step, targets, number, size)
        self.count(size)

    @torch.no_grad()
    def add(self, step: Step, targets: Tensor, number: int | Tensor | None, size: int) -> None:
        """The part of `update` on the device, in place: a graph that has captured it can do it
        again. Logits [N,K] count as correct or not where there is one row a target.
        """
        for name, term in step.losses.items():
            if name not in self._sums:
                # float64 on the CPU, where it is free; accelerators may have none
                self._sums[name] = torch.zeros_like(
                    term, dtype=torch.float64 if self._device.type == "cpu" else torch.float32
                )
                self._first_bad[name] = torch.full_like(term, _NEVER, dtype=torch.int64)
            self._sums[name].add_(term, alpha=size)
            if number is not None:
                # a number given to torch.where is copied to the device
                bad = torch.isfinite(term) * (_NEVER - number) + number
                torch.minimum(self._first_bad[name], bad, out=self._first_bad[name])
        if size and step.logits.shape[0] == targets.numel():
            self.correct.add_((step.logits.argmax(-1) == targets.reshape(-1)).sum())
            self.labelled.add_((targets != UNLABELLED).sum())

    def count(self, size: int) -> None:
        """The part of `update` on the host: so many images more."""
        self.seen += size

    def __getitem__(self, name: str) -> Tensor:
        return self._sums[name] / max(self.seen, 1)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._sums if self._labels or not on_labels(name))

    def __len__(self) -> int:
        return len(tuple(iter(self)))

    def agree(self, ranks: Ranks) -> None:
        """Makes them what one process would have that saw the images of all ranks. At the end of an
        epoch, once.
        """
        if ranks.size > 1:
            self._sums = {name: ranks.total(value) for name, value in self._sums.items()}
            self.correct, self.labelled = ranks.total(self.correct), ranks.total(self.labelled)
            self.seen = int(ranks.total(torch.tensor(self.seen)))

    def first_bad(self) -> tuple[str, int] | None:
        """The term that was first not finite and its step, or None. Waits for the device."""
        found = [(int(step), name) for name, step in self._first_bad.items() if int(step) != _NEVER]
        return (min(found)[1], min(found)[0]) if found else None

    def means(self) -> dict[str, float]:
        """The means as numbers. Waits for the device."""
        return {name: float(self[name]) for name in self}

    def accuracy(self) -> float:
        """Share of the images with a label that were predicted correctly; NaN where none had one.
        Waits for the device.
        """
        return int(self.correct) / int(self.labelled) if int(self.labelled) else math.nan

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `load_state` continues mid-epoch."""
        sums = {f"sum.{name}": value for name, value in self._sums.items()}
        return {
            **sums,
            "correct": self.correct,
            "labelled": self.labelled,
            "seen": torch.tensor(self.seen),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "sum":
                self._sums[name] = value.to(self._device)
                self._first_bad[name] = torch.tensor(_NEVER, device=self._device)
        self.correct = tensors["correct"].to(self._device)
        self.seen = int(tensors["seen"])
        # a state of a kd that knew labelled images alone has no count of them
        self.labelled = tensors.get("labelled", tensors["seen"]).to(self._device)
