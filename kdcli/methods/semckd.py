"""SemCKD: each layer of the student learns from all of the teacher's, by attention

Paper: D. Chen, J.-P. Mei, Y. Zhang, C. Wang, Z. Wang, Y. Feng, C. Chen, Cross-layer distillation
with semantic calibration, AAAI 2021, arXiv:2012.03236.
Reference code: https://github.com/DefangChen/SimKD@d0b9cded models/util.py,
distiller_zoo/SemCKD.py, by the same authors as https://github.com/DefangChen/SemCKD

    L = w_ce CE(z, y) + w_kd KD(z, v) + w mean_b,i sum_j a_bij mean ( P_ij(f_s^i) - f_t^j )^2

f are the maps of all stages. The attention a_b of a picture sums to 1 over the teacher's layers j;
it comes from how the picture resembles the others of its minibatch in each layer
(kdcli.modules.layer_attention). P_ij are three convolutions (1x1, 3x3, 1x1), batch norm and ReLU
after the first two. All are trained and thrown away; P_ij are many where networks are deep.

Differs from the paper: a picture is compared with the first `compared` of its minibatch, and
missing ones count 0, where that code is built for one size of minibatch and leaves out others. With
64, its size, a full minibatch gives its number. On several devices each compares the pictures of
its own part of the batch.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Setup, Taps
from kdcli.core.options import FeatureOptions
from kdcli.core.taps import expand
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.layer_attention import SemanticAttention

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of SemCKD."""

    kd_weight: float = Field(1.0, ge=0, description="Weight of Hinton's term on the logits.")
    weight: float = Field(400.0, ge=0, description="Weight of the maps' difference.")
    compared: int = Field(
        64, ge=2, description="Pictures of a minibatch that each of it is compared with."
    )


class SemanticCalibration(FeatureMethod):
    """Trains all maps of the student toward those of the teacher that fit them."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*",)
    teacher_taps = ("stage*",)
    consumes = "maps of all stages, teacher logits"
    trains = "student, attention, a projection for each pair of maps"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        # every layer meets every layer: none is left out where one network is deeper
        self.taps = Taps(
            expand(self.student, self.student_taps, "semckd"),
            expand(self.teacher_net, self.teacher_taps, "semckd"),
        )
        self.require_maps()
        ours = [self.student.taps[tap].channels for tap in self.taps.student]
        theirs = [self.teacher_net.taps[tap].channels for tap in self.taps.teacher]
        self.attention = SemanticAttention(len(ours), len(theirs), options.compared)
        self.projections = nn.ModuleList(_projection(s, t) for s in ours for t in theirs)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        s_maps = [student.taps[tap] for tap in self.taps.student]
        t_maps = [teacher.taps[tap] for tap in self.taps.teacher]
        projections = iter(self.projections)
        # pooled before they are projected, as in the reference code
        projected = [[next(projections)(losses.same_size(s, t)[0]) for t in t_maps] for s in s_maps]
        loss = losses.semckd(projected, t_maps, self.attention(s_maps, t_maps))
        return {"semckd": self.options.weight * loss}


def _projection(ours: int, theirs: int) -> nn.Sequential:
    inner = 2 * theirs
    return nn.Sequential(
        nn.Conv2d(ours, inner, kernel_size=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, inner, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, theirs, kernel_size=1, bias=False),
    )
