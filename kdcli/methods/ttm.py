"""Transformed teacher matching: a temperature on the teacher's side alone

Paper: K. Zheng, E.-H. Yang, Knowledge distillation based on transformed teacher matching, ICLR
2024, arXiv:2402.11148.
Reference code: https://github.com/zkxufo/TTM@2de9060d distiller_zoo/ttm.py

    L = w_ce CE(z, y) + w mean_i KL( softmax(v_i / tau) || softmax(z_i) )

The student is to have the teacher's softened probabilities as its own. Against plain distillation
that adds a Renyi entropy of the student, a regulariser. The paper speaks of the power gamma = 1 /
tau of the teacher's probabilities. Published for vgg13 -> vgg8 on CIFAR-100, and the defaults:
gamma 0.1, w 45.

So its answers are softer than its teacher's by design: on digits by 1.9 nats of entropy
(docs/results/methods-on-digits.md).

Differs from the paper: nothing.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of transformed teacher matching."""

    temperature: float = Field(
        10.0, gt=0, description="Softmax temperature tau of the teacher, 1 / gamma of the paper."
    )
    weight: float = Field(45.0, ge=0, description="Weight of the distillation term.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class TransformedTeacher(Method):
    """Trains the student, not tempered, on labels and on the teacher's softened probabilities."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    cacheable = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        soft = losses.ttm(z, v, temperature=self.options.temperature)
        ce = losses.cross_entropy(z, batch.y)
        return Step({"ce": self.options.ce_weight * ce, "ttm": self.options.weight * soft}, z)
