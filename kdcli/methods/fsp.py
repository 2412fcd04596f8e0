"""FSP: the flow between layers, given to the student before it sees a label

Paper: J. Yim, D. Joo, J. Bae, J. Kim, A gift from knowledge distillation: fast optimization,
network minimization and transfer learning, CVPR 2017.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/FSP.py,
helper/pretrain.py

    L_1 = sum over neighbouring maps (a, b) of mean (G_s - G_t)^2,
        G = (1 / HW) sum_hw a_c,hw b_c',hw
    L_2 = w_ce CE(z, y) + w_kd KD(z, v) + w L_1

The maps are those of the stem and of all stages. In the first stage, hint_epochs long, the student
up to its last map learns L_1 alone; in the second all of it learns labels. G counts channels
against channels, so both networks must have equally many at each map. With a training much shorter
than the published 200 to 240 epochs set hint_epochs too.

Differs from the paper: a mean over the entries of G instead of a weighted sum, between the ends of
neighbouring stages, as in that code. The term is left out of the second stage (w = 0), as in both.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, MethodOptions, Setup, Stage
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress, Step
from kdcli.methods._feature import FeatureMethod, require_equal_channels
from kdcli.methods._hint import HintedMethod

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of FSP."""

    hint_epochs: int = Field(
        30, ge=1, description="Epochs of the first stage, which learns the flow alone."
    )
    hint_lr: float | None = Field(
        None, gt=0, description="Learning rate of the first stage; the recipe's unless given."
    )
    weight: float = Field(
        0.0,
        ge=0,
        description=(
            "Weight of the flow's term in the second stage; 0: learnt in the first one only."
        ),
    )


class FlowOfSolution(HintedMethod):
    """Trains the student's trunk on the flow between its maps, then the student on labels."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stem", "stage*")
    teacher_taps = ("stem", "stage*")
    consumes = "maps of stem and stages"
    trains = "student, its trunk first"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        require_equal_channels(self, "fsp compares the flow channel by channel")

    def _second_stage_learns(self) -> bool:
        return super()._second_stage_learns() or self.options.weight > 0

    @classmethod
    def undivided(cls, options: MethodOptions) -> str:
        assert isinstance(options, Options)
        return "" if options.weight and options.ce_weight else super().undivided(options)

    def stages(self) -> list[Stage]:
        return self.hint_stages(epochs=self.options.hint_epochs, lr=self.options.hint_lr)

    def loss(self, batch: Batch, at: Progress) -> Step:
        if not self.options.weight:
            return super().loss(batch, at)
        step = FeatureMethod.loss(self, batch, at)
        return Step(step.losses | {"fsp": self.options.weight * step.losses["fsp"]}, step.logits)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        s_maps, t_maps = zip(*self.pairs(student, teacher), strict=True)
        return {"fsp": losses.fsp(s_maps, t_maps)}
