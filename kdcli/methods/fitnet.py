"""FitNets: hints from a middle layer of the teacher

Paper: A. Romero, N. Ballas, S. E. Kahou, A. Chassang, C. Gatta, Y. Bengio, FitNets: hints for thin
deep nets, ICLR 2015, arXiv:1412.6550.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/FitNet.py,
models/util.py; https://github.com/megvii-research/mdistiller@e8c5bb33
mdistiller/distillers/FitNet.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w mean (r(f_s) - f_t)^2

f_s and f_t are the maps at the hint, the second stage unless named; r is a convolution with batch
norm and ReLU that takes the student's map to the teacher's channels and size
(kdcli.modules.regressor). It is trained with the student and thrown away.

With two_stage the paper's procedure: first the student up to its guided layer and a regressor
without batch norm learn the hint alone, for hint_epochs; then the whole student learns from labels
and the teacher's logits, whose weight falls linearly.

    L_2 = CE(z, y) + lambda(t) tau^2 KL( softmax(v / tau) || softmax(z / tau) ),  lambda from 4 to 1

Differs from the paper: one joint stage by default, as in both reference codes. In two stages the
hint's mean square instead of half its squared norm, epochs instead of early stopping, the ReLU of r
kept, and tau^2 before the divergence: lambda as printed is kd_anneal = [4 / tau^2, 1 / tau^2].
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, MethodOptions, Setup, Stage, Taps
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress, Step
from kdcli.errors import UsageError
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.regressor import Regressor

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of FitNets."""

    weight: float = Field(
        100.0,
        ge=0,
        description=(
            "Weight of the hint's term; the first of two stages has no other and leaves it at 1."
        ),
    )
    hint: str = Field(
        "stage2",
        pattern=r"^(stem|last|stage\d+)(\.pre)?$",
        description="The student's tap that is guided.",
    )
    teacher_hint: str | None = Field(
        None,
        pattern=r"^(stem|last|stage\d+)(\.pre)?$",
        description="The teacher's tap that guides it; the same unless given.",
    )
    two_stage: bool = Field(
        default=False,
        description="Learn the hint first, then labels and logits, as the paper does.",
    )
    hint_epochs: int = Field(30, ge=1, description="Epochs of the first of two stages.")
    kd_anneal: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = Field(
        (4.0, 1.0),
        description=(
            "Weight of Hinton's term in the second of two stages: at its start and at its end."
        ),
    )


class FitNet(FeatureMethod):
    """Trains the student to have, after a regressor, the teacher's map at one place."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage2",)
    teacher_taps = ("stage2",)
    consumes = "one map; teacher logits with two_stage"
    trains = "student, regressor"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        if options.two_stage and options.kd_weight:
            raise UsageError(
                "fitnet in two stages takes the weight of the logits from kd_anneal, and "
                f"kd_weight = {options.kd_weight} would do nothing",
                hint="kd_anneal = [first, last]",
            )
        (hint,), (guide,) = self.taps
        relu = not hint.endswith(".pre") and not guide.endswith(".pre")
        self.regressor = Regressor(
            self.student.taps[hint],
            self.teacher_net.taps[guide],
            relu=relu,
            norm=not options.two_stage,
        )

    @classmethod
    def patterns(cls, options: MethodOptions) -> Taps:
        if not isinstance(options, Options):
            return super().patterns(options)
        return Taps((options.hint,), (options.teacher_hint or options.hint,))

    def stages(self) -> list[Stage]:
        if not self.options.two_stage:
            return super().stages()
        guided = (*self.student.trunk(self.taps.student[0]), self.regressor)
        return [
            Stage("hint", guided, self._hint_loss, epochs=self.options.hint_epochs),
            Stage("distill", (self.student,), self._logit_loss),
        ]

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        return {"hint": self.options.weight * self._hint(student, teacher)}

    def _hint(self, student: Output, teacher: Output) -> Tensor:
        ((s, t),) = self.pairs(student, teacher)
        return losses.fitnet(self.regressor(s), t)

    def _hint_loss(self, batch: Batch, at: Progress) -> Step:
        student, teacher = self.read(batch)
        return Step({"hint": self._hint(student, teacher)}, student.logits)

    def _logit_loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        first, last = self.options.kd_anneal
        weight = first + (last - first) * at.step / max(at.steps - 1, 1)
        soft = weight * losses.kd(z, v, temperature=self.options.temperature)
        return Step(
            {"ce": self.options.ce_weight * losses.cross_entropy(z, batch.y), "kd": soft}, z
        )
