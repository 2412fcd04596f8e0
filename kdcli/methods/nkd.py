"""Normalised distillation: the label by the teacher's confidence, the rest as shares of the rest

Paper: Z. Yang, A. Zeng, Z. Li, T. Zhang, C. Yuan, Y. Li, From knowledge distillation to
self-knowledge distillation: a unified approach with normalized loss and customized soft labels,
ICCV 2023, arXiv:2303.13005.
Reference code: https://github.com/yzd-v/cls_KD@1c2c0ff1 mmcls/distillation/losses/nkd.py

    L = w_ce CE(z, y) + w [ -mean_i q_t log p_t + gamma tau^2 mean_i KL( q-hat_i || p-hat_i ) ]

p and q are the softmaxes of student and teacher, t is the label, p-hat and q-hat are their
softmaxes among the other K - 1 classes at temperature tau. Plain distillation compares these
without dividing by what is left beside the label, which differs between the two networks, so that
they cannot be made equal one by one.

CIFAR-100, ResNet34 -> ResNet18, and the defaults: tau 3, gamma 3.5. ImageNet: tau 1, gamma 1.5.

Differs from the paper: KL among the other classes instead of the cross-entropy, which has the same
gradient and comparable values. Mixtures of pictures are refused, where that code takes the label of
the larger part.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of normalised distillation."""

    temperature: float = Field(
        3.0, gt=0, description="Softmax temperature tau of both sides, among the other classes."
    )
    weight: float = Field(1.0, ge=0, description="Weight of both parts.")
    gamma: float = Field(3.5, ge=0, description="Factor of the other classes.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class NormalisedDistillation(Method):
    """Trains the student on labels, on the teacher's confidence in them and on its order of the
    other classes.
    """

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    mixes = False  # it reads labels itself
    labels_for = "it parts the teacher's answer at the label"
    cacheable = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        options = self.options
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        target, others = losses.nkd(z, v, batch.y, temperature=options.temperature)
        return Step(
            {
                "ce": options.ce_weight * losses.cross_entropy(z, batch.y),
                "target": options.weight * target,
                "others": options.weight * options.gamma * others,
            },
            z,
        )
