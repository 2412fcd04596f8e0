"""Distillation from a stronger teacher: match how probabilities vary, not the probabilities

Paper: T. Huang, S. You, F. Wang, C. Qian, C. Xu, Knowledge distillation from a stronger teacher,
NeurIPS 2022, arXiv:2205.10536.
Reference code: https://github.com/hunto/DIST_KD@6d93ca01 and the classification code that it
includes.

    inter = tau^2 (1 - mean_i r(p_i., q_i.)),   intra = tau^2 (1 - mean_k r(p_.k, q_.k))
    L = w_ce CE(z, y) + w (beta inter + gamma intra)

p and q are the softmaxes of student and teacher at temperature tau, [N,K]; r is Pearson's
correlation. inter is about the classes of one image, intra about the images of one class, so the
batch matters: each process that trains looks at its own part. CIFAR-100: tau 4; ImageNet: tau 1. w
2 with beta and gamma 1, the code's way, is the paper's beta and gamma 2.

Differs from the paper: the factor tau^2, which the released code has and runs at tau 4 need. A row
or column of probabilities without spread is centred and not scaled.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of distillation from a stronger teacher."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of both sides.")
    weight: float = Field(2.0, ge=0, description="Weight of both correlation terms.")
    beta: float = Field(
        1.0, ge=0, description="Share of the correlation over the classes of an image."
    )
    gamma: float = Field(
        1.0, ge=0, description="Share of the correlation over the images of a class."
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class StrongerTeacher(Method):
    """Trains the student on labels and on the correlations between its probabilities and the
    teacher's.
    """

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    cacheable = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        options = self.options
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        inter, intra = losses.correlations(z, v, temperature=options.temperature)
        ce = options.ce_weight * losses.cross_entropy(z, batch.y)
        return Step(
            {
                "ce": ce,
                "inter": options.weight * options.beta * inter,
                "intra": options.weight * options.gamma * intra,
            },
            z,
        )
