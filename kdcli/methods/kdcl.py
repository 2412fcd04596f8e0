"""KDCL: several networks learn from labels and from the best of what they say together

Paper: Q. Guo, X. Wang, Y. Wu, Z. Yu, D. Liang, X. Hu, P. Luo, Online knowledge distillation via
collaborative learning, CVPR 2020, pp. 11020-11029.
Reference code: none was released.

    L_i = w_ce CE(z_i, y) + w tau^2 mean KL( softmax(t / tau) || softmax(z_i / tau) )
    naive:      t = z_m of the m with the least CE(z_m, y), for each image
    min_logit:  t_k = min_m ( z_mk - z_my )

over the M networks: the student, which is what is evaluated and shipped, and its peers. t gets no
gradient. Logs call the terms ce, together (the student's) and peer1_ce, peer1_together, ...

Differs from the paper: every network sees the same view of a picture, where the paper distorts it
anew for each; its forms that solve for weights of the networks, on the minibatch or on held-out
images, are not here. tau = 2 and w = 1 are remembered as the paper's for ImageNet: its text was not
at hand.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.options import PeerOptions
from kdcli.core.types import Arity, Batch, Progress, Step
from kdcli.methods._peers import PeerMethod

FAMILY = "online"


class Options(PeerOptions):
    """Options of collaborative learning."""

    target: Literal["naive", "min_logit"] = Field(
        "min_logit", description="What all learn: the best network's answer, or the least logits."
    )
    temperature: float = Field(2.0, gt=0, description="Softmax temperature tau of all sides.")
    weight: float = Field(1.0, ge=0, description="Weight of what they say together.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class CollaborativeLearning(PeerMethod):
    """Trains the student and its peers together."""

    options: Options
    teachers = Arity(0, 0)
    consumes = "labels, peers' logits"
    trains = "student, peers"
    mixes = False  # it reads labels itself
    labels_for = "what the networks say together is made around the label"

    def loss(self, batch: Batch, at: Progress) -> Step:
        options = self.options
        answers = self.answers(batch)
        make = losses.naive_target if options.target == "naive" else losses.min_logit_target
        target = make([*answers.values()], batch.y)
        terms: dict[str, Tensor] = {}
        for prefix, z in answers.items():
            soft = losses.kd(z, target, temperature=options.temperature)
            terms[f"{prefix}ce"] = options.ce_weight * losses.cross_entropy(z, batch.y)
            terms[f"{prefix}together"] = options.weight * soft
        return Step(terms, answers[""])
