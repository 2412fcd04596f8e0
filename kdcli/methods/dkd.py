"""Decoupled distillation: weigh what is said of the label and what of the other classes apart

Paper: B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang, Decoupled knowledge distillation, CVPR 2022,
arXiv:2203.08679.
Reference code: https://github.com/megvii-research/mdistiller@e8c5bb33 mdistiller/distillers/DKD.py

    TCKD = tau^2 mean_i KL( (q_t, 1 - q_t) || (p_t, 1 - p_t) ),
    NCKD = tau^2 mean_i KL( q-hat_i || p-hat_i )
    L = w_ce CE(z, y) + min(epoch / E_w, 1) (alpha TCKD + beta NCKD)

p and q are the softmaxes of student and teacher at temperature tau, t is the label, p-hat and q-hat
are p and q among the other K - 1 classes. Plain distillation is TCKD + (1 - q_t) NCKD: where the
teacher is sure it says next to nothing about the other classes.

beta as published, with alpha 1. CIFAR-100: 2 for resnet56 -> resnet20 and resnet110 -> resnet32, 6
for wrn_40_2 -> wrn_16_2, wrn_40_2 -> wrn_40_1, vgg13 -> vgg8 and vgg13 -> MobileNetV2, 8 for
resnet32x4 -> resnet8x4, resnet32x4 -> ShuffleNetV1 or V2, wrn_40_2 -> ShuffleNetV1 and ResNet50 ->
MobileNetV2. ImageNet, with tau 1 and a warm-up of one epoch: 0.5 for ResNet34 -> ResNet18, 2 for
ResNet50 -> MobileNet.

Differs from the paper: nothing. Differs from the code: the label's column is left out, not lowered
by 1000, and log(1 - p_t) is computed without rounding p_t first.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of decoupled distillation."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of both sides.")
    alpha: float = Field(1.0, ge=0, description="Weight of the label against the rest, TCKD.")
    beta: float = Field(
        8.0, ge=0, description="Weight of the other classes among themselves, NCKD."
    )
    warmup_epochs: int = Field(
        20, ge=0, description="Epochs E_w over which both weights rise to their values; 0: none."
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class DecoupledDistillation(Method):
    """Trains the student on labels, on the teacher's confidence in the label and on its order of
    the other classes.
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
        target, rest = losses.decoupled(z, v, batch.y, temperature=options.temperature)
        share = at.warmup(options.warmup_epochs)
        ce = options.ce_weight * losses.cross_entropy(z, batch.y)
        return Step(
            {"ce": ce, "tckd": share * options.alpha * target, "nckd": share * options.beta * rest},
            z,
        )
