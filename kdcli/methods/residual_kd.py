"""Residual distillation: an assistant learns what is left between student and teacher, and ships
with the student

Paper: M. Gao, Y. Shen, Q. Li, C. C. Loy, Residual knowledge distillation, arXiv:2002.09168.
Reference code: none.

    D(a, b) = tau^2 mean KL( softmax(a / tau) || softmax(b / tau) )
    stage 1, the student:                        L_S = (1 - w) CE(z_S, y) + w D(v, z_S)
    stage 2, the assistant, the student frozen:  L_A = w_A,ce CE(z_S + z_A, y) + D(v, z_S + z_A)

The result is both networks: their logits are added.

Differs from the paper: this is our reading, on logits. The paper works on feature maps, has the sum
of both maps feed one classifier, and gets student and assistant by dividing the channels of one
network, so that both together cost what it costs. That needs every network of the zoo cut in two by
hand; on logits any two networks will do. By default the assistant is a copy of the student, so the
result costs twice the student: compare it with networks of that size.
"""

from __future__ import annotations

import torch
from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup, Stage
from kdcli.core.network import Network
from kdcli.core.types import Batch, Progress, Step
from kdcli.modules.composite import Composite, combined

FAMILY = "chain"


class Options(MethodOptions):
    """Options of residual distillation."""

    assistant: str = Field(
        "student", description='The network that learns the rest; "student": a copy of the student.'
    )
    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of both sides.")
    weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of distillation in the student's stage; labels have the rest.",
    )
    assistant_ce_weight: float = Field(
        0.0, ge=0, description="Weight of the cross-entropy in the assistant's stage."
    )
    assistant_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs of the assistant's stage; as many as the student's unless given.",
    )


class ResidualDistillation(Method):
    """Trains the student, then an assistant on what is left."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    trains = "student, then assistant"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.assistant = setup.build(options.assistant)

    def stages(self) -> list[Stage]:
        return [
            Stage("student", (self.student,), self._alone, network=self.student),
            Stage("assistant", (self.assistant,), self._rest, self.options.assistant_epochs),
        ]

    def deployable(self) -> Network:
        """Student and assistant, their logits added."""
        return Composite([self.student, self.assistant], "sum_logits")

    def _alone(self, batch: Batch, at: Progress) -> Step:
        z, v, weight = self.student(batch.x).logits, self.teacher(batch).logits, self.options.weight
        soft = losses.kd(z, v, temperature=self.options.temperature)
        return Step({"ce": (1 - weight) * losses.cross_entropy(z, batch.y), "kd": weight * soft}, z)

    def _rest(self, batch: Batch, at: Progress) -> Step:
        with torch.no_grad():
            z_student = self.student(batch.x).logits
        z = combined([z_student, self.assistant(batch.x).logits], "sum_logits")
        terms = {
            "rest": losses.kd(z, self.teacher(batch).logits, temperature=self.options.temperature)
        }
        if self.options.assistant_ce_weight:
            terms["ce"] = self.options.assistant_ce_weight * losses.cross_entropy(z, batch.y)
        return Step(terms, z)
