"""Universal self-distillation: soft labels made of the student's own answers, without a teacher

Paper: Z. Yang, A. Zeng, Z. Li, T. Zhang, C. Yuan, Y. Li, From knowledge distillation to
self-knowledge distillation: a unified approach with normalized loss and customized soft labels,
ICCV 2023, arXiv:2303.13005.
Reference code: https://github.com/yzd-v/cls_KD@1c2c0ff1 mmcls/distillation/losses/uskd.py

    L = w_ce CE(z, y) + alpha target + beta others + mu CE(w, y-smooth)
    target = -mean_i s_i log p_t,   s_i = p_t^2 + 1 - mean_j p_jt^2
    others = mean_i KL( r_i || p-hat_i ),   r_ik in proportion to 1 / rank_ik

p is the student's softmax, t the label, p-hat the softmax of the other K - 1 classes. w are the
logits of a weak head, a linear layer on the pooled map of the stage before the last, which learns
labels smoothed by 0.1 and is thrown away. rank sorts the classes by p_k / (1 - p_t) + a_k / (1 -
a_t), largest first, where a is the softmax of w; ranks follow Zipf's law, as the paper
finds a teacher's probabilities to do. s and r get no gradient. Means over j are over the minibatch,
so the batch matters: each process that trains looks at its own part.

CIFAR-100, ResNet18, and the defaults: alpha, beta and mu 0.1. ImageNet: 1, 0.1 and 0.005.

Differs from the paper: KL among the other classes instead of the cross-entropy, which has the same
gradient. Differs from the code, which sorts by log p_k / (1 - log p_t) in the place of the first of
these two; and takes the label of mixtures apart, which are refused here.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup, Taps
from kdcli.core.taps import check_maps, name_of
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import Incompatible

FAMILY = "self"

_SMOOTHING = 0.1


class Options(MethodOptions):
    """Options of universal self-distillation."""

    alpha: float = Field(0.1, ge=0, description="Weight of the label by the student's confidence.")
    beta: float = Field(0.1, ge=0, description="Weight of the other classes by their ranks.")
    mu: float = Field(0.1, ge=0, description="Weight of what the weak head learns.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class UniversalSelfDistillation(Method):
    """Trains the student on labels and on soft labels made of what it says itself, early and
    late.
    """

    options: Options
    teachers = Arity(0, 0)
    student_taps = ("stage*",)
    consumes = "labels, map of the stage before the last"
    mixes = False  # it reads labels itself
    labels_for = "its soft labels are made around the label"
    trains = "student, weak head"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        *_, early = ("", *self.taps.student[:-1])
        if not early:
            raise Incompatible(
                f"uskd reads the stage before the last, and {name_of(self.student)} has one stage",
                hint="--method tf_kd, which reads none",
            )
        self.taps = Taps((early,), ())
        check_maps(self.student, self.taps.student, "uskd")
        self.weak = nn.Linear(self.student.taps[early].channels, setup.data.num_classes)

    def loss(self, batch: Batch, at: Progress) -> Step:
        options = self.options
        z, taps = self.student(batch.x, self.taps.student)
        (early,) = taps.values()
        w = self.weak(early.mean((2, 3)))
        target, others = losses.uskd(z, w, batch.y)
        weak = losses.label_smoothing(w, batch.y, smoothing=_SMOOTHING)
        return Step(
            {
                "ce": options.ce_weight * losses.cross_entropy(z, batch.y),
                "target": options.alpha * target,
                "others": options.beta * others,
                "weak": options.mu * weak,
            },
            z,
        )
