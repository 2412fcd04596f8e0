"""A teacher whose answers are there already, and whose network is not: an ensemble's mean, a model
behind an interface, a network that no longer runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output, SplitName
from kdcli.errors import Incompatible

_ONLY = "its answers are ready-made (teacher.logits), and there is no network"


class NoNetwork(Network):
    """The network of ready-made answers: there is none. name: what messages call it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.taps = {}

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # there is none
        """None.

        Raises:
            Incompatible: always.
        """
        raise self._missing("the last layer")

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> NoReturn:  # noqa: ARG002  whatever is asked
        raise self._missing("an answer to other pictures")

    def trunk(self, upto: str) -> NoReturn:
        raise self._missing(f"the layers up to {upto}")

    def linear_heads(self) -> tuple[nn.Linear, ...]:
        return ()

    def _missing(self, what: str) -> Incompatible:
        return Incompatible(
            f"{what} of the teacher {self.name} is asked for: {_ONLY}",
            hint="a method that asks for logits alone, such as kd; or a teacher with a network",
        )


class ReadyAnswers(Teacher):
    """A teacher that looks its answers up by the number of a sample in its split.

    Args:
        name: what messages call it.
        answers: logits [n,K] float32 on the device, of the splits that there are answers for; or
            [n,V,K], of V views of each training picture.
        split: whose samples it is asked about.
    """

    def __init__(
        self, name: str, answers: Mapping[SplitName, Tensor], split: SplitName = "train"
    ) -> None:
        super().__init__(NoNetwork(name))
        self.name = name
        self.answers = answers
        self.split: SplitName = split

    def of(self, split: SplitName) -> Teacher | None:
        if split not in self.answers:
            return None
        answers = self.answers[split]
        if answers.ndim == 3:  # who measures shows pictures as they are, in none of the views
            answers = answers.mean(1)
        return ReadyAnswers(self.name, {**self.answers, split: answers}, split)

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        if taps:
            self.network(batch.x, taps)
        with torch.no_grad():
            answers = self.answers[self.split]
            if answers.ndim == 3:
                return Output(answers[batch.index, batch.view], {})
            return Output(answers.index_select(0, batch.index), {})
