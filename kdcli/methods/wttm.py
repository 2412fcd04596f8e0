"""Weighted transformed teacher matching: smooth answers of the teacher count for more

Paper: K. Zheng, E.-H. Yang, Knowledge distillation based on transformed teacher matching, ICLR
2024, arXiv:2402.11148.
Reference code: https://github.com/zkxufo/TTM@2de9060d distiller_zoo/wttm.py

    L = w_ce CE(z, y) + w mean_i u_i KL( softmax(v_i / tau) || softmax(z_i) ),
    u_i = sum_k q_ik^(1 / tau)

q is the teacher's softmax; ttm has u = 1. u is 1 where the teacher is sure and grows towards
K^(1 - 1 / tau) as its answer grows smooth: what is hard to say in one label is taught harder. As u
is 5 to 40 for a hundred classes, w is smaller than in ttm. Published beside CRD for vgg13 -> vgg8
on CIFAR-100, and the defaults: 1 / tau 0.2, w 4; the authors' values alone are in the paper's
appendix, which was not at hand.

Differs from the paper: nothing.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of weighted transformed teacher matching."""

    temperature: float = Field(
        5.0, gt=0, description="Softmax temperature tau of the teacher, 1 / gamma of the paper."
    )
    weight: float = Field(4.0, ge=0, description="Weight of the distillation term.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class WeightedTransformedTeacher(Method):
    """Trains the student, not tempered, on labels and on the teacher's softened probabilities, most
    where these are smooth.
    """

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    cacheable = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        soft = losses.wttm(z, v, temperature=self.options.temperature)
        ce = losses.cross_entropy(z, batch.y)
        return Step({"ce": self.options.ce_weight * ce, "wttm": self.options.weight * soft}, z)
