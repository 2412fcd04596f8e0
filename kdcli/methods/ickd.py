"""ICKD: which channels of the last map respond together

Paper: L. Liu, Q. Huang, S. Lin, H. Xie, B. Wang, X. Chang, X. Liang, Exploring inter-channel
correlation for diversity-preserved knowledge distillation, ICCV 2021, arXiv:2202.03680.
Reference code: https://github.com/ADLab-AutoDrive/ICKD@04e1d3e1 Cifar100/distiller_zoo/ICKD.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w mean_b,c sum_c' ( G(g(f_s)) - G(f_t) )^2,  G(f)_cc' =
    <f_c, f_c'> / | <f_c, f_.> |

f_s and f_t are the last maps, their channels flattened over positions; g is a 1x1 convolution with
batch norm that gives the student's map the teacher's channels, trained and thrown away.

Differs from the paper: that for classification alone. For segmentation it compares patches of a
map, which pictures with one label do not have. Rows are divided by their norms as in that code.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.connector import Connector

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of ICKD."""

    weight: float = Field(2.5, ge=0, description="Weight of the correlations' difference.")


class InterChannelCorrelation(FeatureMethod):
    """Trains the student's channels to go together as the teacher's do."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("last",)
    consumes = "last map"
    trains = "student, connector"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        ((ours, theirs),) = self.channels()
        self.connector = Connector(ours, theirs)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        return {"ickd": self.options.weight * losses.ickd(self.connector(s), t)}
