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

import torch
from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.options import PeerOptions
from kdcli.core.types import Arity, Batch, Progress, Step
from kdcli.methods._peers import PeerMethod

FAMILY = "online"


class Options(PeerOptions):
    """Options of deep mutual learning."""

    temperature: float = Field(1.0, gt=0, description="Softmax temperature tau of all sides.")
    weight: float = Field(
        1.0, ge=0, description="Weight of what a network learns from the others, their mean."
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class MutualLearning(PeerMethod):
    """Trains the student and its peers together."""

    options: Options
    teachers = Arity(0, 0)
    consumes = "labels, peers' logits"
    trains = "student, peers"

    def loss(self, batch: Batch, at: Progress) -> Step:
        answers = self.answers(batch)
        terms: dict[str, Tensor] = {}
        for prefix, z in answers.items():
            others = [
                losses.kd(z, v, temperature=self.options.temperature)
                for other, v in answers.items()
                if other != prefix
            ]
            terms[f"{prefix}ce"] = self.options.ce_weight * losses.cross_entropy(z, batch.y)
            terms[f"{prefix}mutual"] = self.options.weight * torch.stack(others).mean()
        return Step(terms, answers[""])
