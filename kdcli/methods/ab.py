"""AB: activation boundaries, given to the student before it sees a label

Paper: B. Heo, M. Lee, S. Yun, J. Y. Choi, Knowledge transfer via distillation of activation
boundaries formed by hidden neurons, AAAI 2019, arXiv:1811.03233.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/AB.py,
helper/pretrain.py

    L_1 = w (1 / B) sum_i 2^(i - n) sum ( max(m - s, 0) where t > 0, max(s + m, 0) elsewhere )^2
    L_2 = w_ce CE(z, y) + w_kd KD(z, v)

s and t are the maps of all stages before their activations, s after a connector: a convolution with
batch norm where channels or sizes differ. Which neurons fire matters, not how strongly; the square
stands for the boundary, which has no gradient. In the first stage, hint_epochs long, the student up
to its last map and the connectors learn L_1 alone; in the second the student learns labels, and the
connectors are idle. With a training much shorter than the published 200 to 240 epochs set
hint_epochs too.

Differs from the paper: w = 3 / 1000 and the weights of the stages are that code's. The second stage
has no distillation term by default, as there; the paper adds Hinton's: kd_weight.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Setup, Stage
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress, Tap
from kdcli.methods._hint import HintedMethod
from kdcli.modules.regressor import Regressor

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of activation boundaries."""

    hint_epochs: int = Field(
        30, ge=1, description="Epochs of the first stage, which learns the boundaries alone."
    )
    hint_lr: float | None = Field(
        None, gt=0, description="Learning rate of the first stage; the recipe's unless given."
    )
    weight: float = Field(
        0.003,
        gt=0,
        description="Weight of the boundaries' term, a sum over neurons, in the first stage.",
    )
    margin: float = Field(
        1.0,
        gt=0,
        description="How far from zero a student's neuron should be, on its teacher's side.",
    )


class ActivationBoundaries(HintedMethod):
    """Trains the student's trunk on which neurons fire, then the student on labels."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*.pre",)
    teacher_taps = ("stage*.pre",)
    consumes = "maps of all stages before activation"
    trains = "student, its trunk and connectors first"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        ours, theirs = self.student.taps, self.teacher_net.taps
        self.connectors = nn.ModuleList(
            _connector(ours[s], theirs[t]) for s, t in zip(*self.taps, strict=True)
        )

    def stages(self) -> list[Stage]:
        return self.hint_stages(
            self.connectors, epochs=self.options.hint_epochs, lr=self.options.hint_lr
        )

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        s_maps, t_maps = zip(*self.pairs(student, teacher), strict=True)
        connected = [connector(s) for connector, s in zip(self.connectors, s_maps, strict=True)]
        return {
            "ab": self.options.weight * losses.ab(connected, t_maps, margin=self.options.margin)
        }


def _connector(student: Tap, teacher: Tap) -> nn.Module:
    return nn.Identity() if student == teacher else Regressor(student, teacher, relu=False)
