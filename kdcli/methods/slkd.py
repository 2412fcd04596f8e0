"""Self-learning teachers: the student also follows networks of the teacher's kind while they learn

Paper: Improving knowledge distillation via transferring learning ability (SLKD), section 3,
equations 1 to 7.
Reference code: https://github.com/BrilliantCheng/SLKD@8c1b99ed mdistiller/distillers/TECH_KD.py

    D(a, b) = tau^2 mean KL( softmax(a / tau) || softmax(b / tau) ),   z_A = g z_A1 + (1 - g) z_A2
    L_Aj = w_ce CE(z_Aj, y) + w_kd D(v, z_Aj)      for each self-learning teacher A_j
    L_S = l1 [ w_ce CE(z, y) + w_kd D(v, z) ] + l2 [ CE(z, y) + D(z_A, z) ]

Self-learning teachers have the teacher's architecture and fresh weights. They learn from the
teacher beside the student, which learns from both: in memory are the teacher, one or two more
networks of its size in training, and the student. The student's total weight on labels is l1 w_ce +
l2: 1.1 by default. teacher_weight = 0 is the paper's ablation without the teacher (Table 7).
sequential = true trains the self-learning teachers to the end first and freezes them (SLKD*): the
way they learnt is lost, and the paper measures what that costs. Logs call the terms ce, kd (from
the teacher), self_ce, self_kd (from z_A), and slt1_*, slt2_*.

Differs from the paper: nothing by default. The released code does not detach z_A, so that the
self-learning teachers are pulled toward the student as well: detach = false. It has no form with
one self-learning teacher, where z_A = z_A1, and none of SLKD*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup, Stage
from kdcli.core.network import Network
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import UsageError

FAMILY = "online"


class Options(MethodOptions):
    """Options of self-learning teachers."""

    self_teachers: Literal[1, 2] = Field(2, description="How many self-learning teachers.")
    fusion: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share g of the first of two in the logits that the student follows.",
    )
    temperature: float = Field(
        4.0, gt=0, description="Softmax temperature tau of all distillation terms."
    )
    ce_weight: float = Field(
        0.1, ge=0, description="Weight of the cross-entropy where the teacher teaches."
    )
    kd_weight: float = Field(0.9, ge=0, description="Weight of distillation from the teacher.")
    teacher_weight: float = Field(
        1.0,
        ge=0,
        description="l1: what the teacher teaches the student; 0: self-learning teachers only.",
    )
    self_teacher_weight: float = Field(
        1.0, ge=0, description="l2: what the self-learning teachers teach the student."
    )
    detach: bool = Field(
        default=True, description="Self-learning teachers do not learn from the student."
    )
    sequential: bool = Field(
        default=False,
        description="Train the self-learning teachers first, then the student (SLKD*).",
    )


class SelfLearningTeachers(Method):
    """Trains student and self-learning teachers together, or one after the other."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    trains = "student, self-learning teachers"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        if options.teacher_weight == options.self_teacher_weight == 0:
            raise UsageError(
                "slkd: method.teacher_weight and method.self_teacher_weight are both 0: the "
                "student learns nothing",
                hint="leave one of them at 1",
            )
        self.self_teachers = nn.ModuleList(
            setup.build("teacher") for _ in range(options.self_teachers)
        )

    def stages(self) -> list[Stage]:
        if not self.options.sequential:
            return super().stages()
        first = self.self_teachers[0]
        return [
            Stage("self_teachers", (self.self_teachers,), self._self_teachers_alone, network=first),  # type: ignore[arg-type]
            Stage("student", (self.student,), self._student_alone),
        ]

    def watched(self) -> Mapping[str, Network]:
        """The self-learning teachers: the paper's figure 2 sets their answers beside the student's
        and the teacher's.
        """
        return {f"slt{number}": network for number, network in enumerate(self.self_teachers, 1)}  # type: ignore[misc]

    def loss(self, batch: Batch, at: Progress) -> Step:
        v, answers, z = (
            self.teacher(batch).logits,
            self._answers(batch),
            self.student(batch.x).logits,
        )
        return Step(
            self._student_terms(z, v, answers, batch.y)
            | self._self_teacher_terms(answers, v, batch.y),
            z,
        )

    def _self_teachers_alone(self, batch: Batch, at: Progress) -> Step:
        answers = self._answers(batch)
        return Step(
            self._self_teacher_terms(answers, self.teacher(batch).logits, batch.y),
            self._fused(answers),
        )

    def _student_alone(self, batch: Batch, at: Progress) -> Step:
        z = self.student(batch.x).logits
        return Step(
            self._student_terms(z, self.teacher(batch).logits, self._answers(batch), batch.y), z
        )

    def _answers(self, batch: Batch) -> list[Tensor]:
        return [network(batch.x).logits for network in self.self_teachers]

    def _fused(self, answers: Sequence[Tensor]) -> Tensor:
        share = self.options.fusion
        return answers[0] if len(answers) == 1 else share * answers[0] + (1 - share) * answers[1]

    def _student_terms(
        self, z: Tensor, v: Tensor, answers: Sequence[Tensor], y: Tensor
    ) -> dict[str, Tensor]:
        """Equation 4; what weighs nothing is left out."""
        options, terms, ce = self.options, {}, losses.cross_entropy(z, y)
        if options.teacher_weight:
            terms["ce"] = options.teacher_weight * options.ce_weight * ce
            terms["kd"] = (
                options.teacher_weight
                * options.kd_weight
                * losses.kd(z, v, temperature=options.temperature)
            )
        if options.self_teacher_weight:
            follow = losses.kd if options.detach else losses.kd_both
            terms["self_ce"] = options.self_teacher_weight * ce
            terms["self_kd"] = options.self_teacher_weight * follow(
                z, self._fused(answers), temperature=options.temperature
            )
        return terms

    def _self_teacher_terms(
        self, answers: Sequence[Tensor], v: Tensor, y: Tensor
    ) -> dict[str, Tensor]:
        """Equations 2, 5 and 6."""
        options, terms = self.options, {}
        for number, z in enumerate(answers, 1):
            terms[f"slt{number}_ce"] = options.ce_weight * losses.cross_entropy(z, y)
            terms[f"slt{number}_kd"] = options.kd_weight * losses.kd(
                z, v, temperature=options.temperature
            )
        return terms
