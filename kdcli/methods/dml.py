"""Deep mutual learning: several networks learn from labels and from each other, without a teacher

Paper: Y. Zhang, T. Xiang, T. M. Hospedales, H. Lu, Deep mutual learning, CVPR 2018,
arXiv:1706.00384.
Reference code: https://github.com/YingZhangDUT/Deep-Mutual-Learning@c3d6ff1e train_models.py

    L_i = w_ce CE(z_i, y) + w / (M - 1) sum_j!=i mean KL( softmax(z_j / tau) || softmax(z_i / tau) )
    tau^2,   tau = 1

over the M networks: the student, which is what is evaluated and shipped, and its peers. Each learns
from the others' answers as they are, without changing them. Logs call the terms ce, mutual (the
student's) and peer1_ce, peer1_mutual, ...

Differs from the paper: all networks step at once on one forward pass. The paper updates them in
turn and asks each again after its update, which costs a second pass for a difference of one step.
All peers share one optimiser's settings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.network import Network
from kdcli.core.types import Batch, Progress, Step

FAMILY = "online"


class Options(MethodOptions):
    """Options of deep mutual learning."""

    peers: tuple[str, ...] = Field(
        ("student",),
        min_length=1,
        description='Networks that learn beside the student; "student": a copy of it.',
    )
    temperature: float = Field(1.0, gt=0, description="Softmax temperature tau of all sides.")
    weight: float = Field(
        1.0, ge=0, description="Weight of what a network learns from the others, their mean."
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class MutualLearning(Method):
    """Trains the student and its peers together."""

    options: Options
    teachers = Arity(0, 0)
    consumes = "labels, peers' logits"
    trains = "student, peers"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.peers = nn.ModuleList(setup.build(name) for name in options.peers)

    def watched(self) -> Mapping[str, Network]:
        """The peers."""
        return {f"peer{number}": network for number, network in enumerate(self.peers, 1)}  # type: ignore[misc]

    def loss(self, batch: Batch, at: Progress) -> Step:
        answers = [network(batch.x).logits for network in (self.student, *self.peers)]
        terms: dict[str, Tensor] = {}
        for number, z in enumerate(answers):
            prefix = f"peer{number}_" if number else ""
            others = [
                losses.kd(z, v, temperature=self.options.temperature)
                for other, v in enumerate(answers)
                if other != number
            ]
            terms[f"{prefix}ce"] = self.options.ce_weight * losses.cross_entropy(z, batch.y)
            terms[f"{prefix}mutual"] = self.options.weight * torch.stack(others).mean()
        return Step(terms, answers[0])
