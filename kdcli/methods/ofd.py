"""OFD: overhaul of feature distillation, the teacher's maps before their ReLU

Paper: B. Heo, J. Kim, S. Yun, H. Park, N. Kwak, J. Y. Choi, A comprehensive overhaul of feature
distillation, ICCV 2019, arXiv:1904.01866.
Reference code: https://github.com/clovaai/overhaul-distillation@76344a84 CIFAR-100/distiller.py;
https://github.com/megvii-research/mdistiller@e8c5bb33 mdistiller/distillers/OFD.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w (1 / B) sum_i 2^(i - n) sum (s - u)^2 where s > u or t >
    0,  u = max(t, m_c)

s and t are the maps of all stages before their activations, s after a 1x1 convolution with batch
norm. m_c < 0, the margin of channel c, is the mean of what the teacher's ReLU takes away there,
computed from the batch norm before it. Where the teacher does not fire, a student below the margin
costs nothing. Connectors are thrown away.

Differs from the paper: nothing is known to. Differs from both codes: the teacher answers in eval
mode; they leave it in train mode, so that it normalises by the minibatch and its statistics drift.
In a residual network whose ReLU follows a sum, the batch norm before that sum is taken for it, as
there.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.taps import name_of
from kdcli.core.types import Batch, Output, Progress
from kdcli.errors import Incompatible
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.connector import Connector

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of the overhaul of feature distillation."""

    weight: float = Field(
        0.001, ge=0, description="Weight of the maps' term, a sum over positions and channels."
    )


class OverhaulOfFeatures(FeatureMethod):
    """Trains the student to match the teacher's maps before activation where the teacher fires, and
    to stay below its margin elsewhere.
    """

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*.pre",)
    teacher_taps = ("stage*.pre",)
    consumes = "maps of all stages before activation, teacher batch norms"
    trains = "student, connectors"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        self.connectors = nn.ModuleList(Connector(ours, theirs) for ours, theirs in self.channels())
        for tap in self.taps.teacher:
            # follows from the teacher
            self.register_buffer(_buffer(tap), self._margins(tap), persistent=False)

    def _margins(self, tap: str) -> Tensor:
        norm = self.teacher_net.norm_at(tap)
        if norm is None or norm.weight is None:
            raise Incompatible(
                "ofd computes margins from the batch norm before each activation of the "
                f"teacher, and {name_of(self.teacher_net)} has none at {tap!r}",
                hint="a teacher with batch norms, such as resnet56, or another method: kd methods",
            )
        return losses.ofd_margins(norm.weight, norm.bias)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        s_maps, t_maps = zip(*self.pairs(student, teacher), strict=True)
        connected = [connector(s) for connector, s in zip(self.connectors, s_maps, strict=True)]
        margins = [self.get_buffer(_buffer(tap)) for tap in self.taps.teacher]
        return {"ofd": self.options.weight * losses.ofd(connected, t_maps, margins)}


def _buffer(tap: str) -> str:
    return f"margin_{tap.partition('.')[0]}"
