"""Weighted soft labels: less of the teacher where the student knows the label better than it does

Paper: H. Zhou, L. Song, J. Chen, Y. Zhou, G. Wang, J. Yuan, Q. Zhang, Rethinking soft labels for
knowledge distillation: a bias-variance tradeoff perspective, ICLR 2021, arXiv:2102.00650.
Reference code: https://github.com/bellymonster/Weighted-Soft-Label-Distillation@4ecf930e
knowledge_distiller.py; for CIFAR-100 https://github.com/yzd-v/cls_KD@8a165628
mmcls/distillation/losses/wsld.py

    L = w_ce CE(z, y) + w tau^2 mean_i u_i KL( softmax(v_i / tau) || softmax(z_i / tau) ),
    u_i = 1 - exp( -CE(z_i, y_i) / (CE(v_i, y_i) + 1e-7) )

Soft labels lower the variance of what is learnt and raise its bias. Where the student's
cross-entropy has fallen below the teacher's there is bias alone to be had, and u goes to 0. It gets
no gradient.

CIFAR-100, and the defaults: tau 4, w 2.25. ImageNet: tau 2, w 2.5.

Differs from the paper: KL instead of the cross-entropy with soft targets, which has the same
gradient and comparable values.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of weighted soft labels."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of both sides.")
    weight: float = Field(2.25, ge=0, description="Weight of the distillation term.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class WeightedSoftLabels(Method):
    """Trains the student on labels and, image by image as far as it needs it, on the teacher's soft
    targets.
    """

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    mixes = False  # it reads labels itself
    labels_for = "it weighs the teacher's answer by how well both know the label"
    cacheable = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        soft = losses.wsld(z, v, batch.y, temperature=self.options.temperature)
        ce = losses.cross_entropy(z, batch.y)
        return Step({"ce": self.options.ce_weight * ce, "wsld": self.options.weight * soft}, z)
