"""The base of methods that train a chain of networks: teacher, assistants from large to small,
student.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from kdcli.core.method import Method, Setup, Stage
from kdcli.core.network import Network, parameter_count
from kdcli.core.options import ChainOptions
from kdcli.core.taps import name_of
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import Incompatible


class ChainMethod(Method):
    """One stage for each assistant and one for the student; each network is frozen from the end of
    its own stage on.

    A subclass writes `link`, the loss of one network under those before it.
    """

    options: ChainOptions

    def __init__(self, options: ChainOptions, setup: Setup) -> None:
        super().__init__(options, setup)
        self.assistants = _assistants(
            options.assistants, setup, type(self).__module__.rpartition(".")[2]
        )

    def stages(self) -> list[Stage]:
        helpers = [
            Stage(
                f"assistant{number}",
                (network,),
                partial(self.link, number - 1),
                self.options.assistant_epochs,
                network=network,
            )
            for number, network in enumerate(self._chain()[:-1], 1)
        ]
        return [
            *helpers,
            Stage("student", (self.student,), partial(self.link, len(self.assistants))),
        ]

    @abstractmethod
    def link(self, position: int, batch: Batch, at: Progress) -> Step:
        """The loss of the network at a position, from 0, of the chain: the assistants in order,
        then the student.
        """

    def learner(self, position: int) -> Network:
        """The network at a position."""
        return self._chain()[position]

    def answer(self, position: int, batch: Batch) -> Tensor:
        """Logits [N,K] of what stands before a position: the teacher before 0, else the network at
        the position before.
        """
        if position == 0:
            return self.teacher(batch).logits
        with torch.no_grad():
            return self._chain()[position - 1](batch.x).logits  # type: ignore[no-any-return]

    def ce_weight(self) -> float:
        """Weight of the cross-entropy."""
        given = self.options.ce_weight
        return max(1 - self.options.weight, 0.0) if given is None else given

    def _chain(self) -> list[Network]:
        return [*self.assistants, self.student]


def _assistants(names: Sequence[str], setup: Setup, method: str) -> nn.ModuleList:
    """Fresh assistants, from large to small.

    Raises:
        Incompatible: there is none, or their sizes do not fall from the teacher's to the student's;
            names the first that does not.
    """
    chosen = tuple(names) or (_in_the_middle(setup, method),)
    networks = [setup.build(name) for name in chosen]
    teacher, student = setup.teachers[0].network, setup.student
    sizes = [
        (f"the teacher {name_of(teacher)}", parameter_count(teacher)),
        *(
            (f"the assistant {name}", parameter_count(network))
            for name, network in zip(chosen, networks, strict=True)
        ),
        (f"the student {name_of(student)}", parameter_count(student)),
    ]
    for (larger, more), (smaller, fewer) in pairwise(sizes):
        if fewer >= more:
            raise Incompatible(
                f"{method}: {smaller} ({fewer:,} parameters) is not smaller than {larger} "
                f"({more:,}), which is before it in the chain",
                hint=(
                    "method.assistants lists networks between teacher and student, from large to "
                    "small (kd models)"
                ),
            )
    return nn.ModuleList(networks)


def _in_the_middle(setup: Setup, method: str) -> str:
    teacher, student = setup.teachers[0].network, setup.student
    sizes = parameter_count(teacher), parameter_count(student)
    middle = sum(math.log(size) for size in sizes) / 2
    candidates = setup.between()
    if not candidates:
        pair = f"{name_of(teacher)} ({sizes[0]:,} parameters) and {name_of(student)} ({sizes[1]:,})"
        raise Incompatible(
            f"{method} needs an assistant, and the zoo has none of the teacher's family "
            f"between {pair}",
            hint=(
                "-s 'method.assistants=[\"NAME\"]'  (kd models lists networks with their "
                "parameters)"
            ),
        )
    return min(candidates, key=lambda name: abs(math.log(candidates[name]) - middle))
