"""Attention transfer: look where the teacher looks

Paper: S. Zagoruyko, N. Komodakis, Paying more attention to attention: improving the performance of
convolutional neural networks via attention transfer, ICLR 2017, arXiv:1612.03928.
Reference code: https://github.com/szagoruyko/attention-transfer@eb681595 utils.py;
https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/AT.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w sum_l mean (Q_s^l - Q_t^l)^2,  Q = flatten(mean_c |f_c|^p)
    divided by its norm

The sum is over the stages' maps. Channels may differ; a larger map is average-pooled to the
smaller.

Differs from the paper: it sums norms of the differences; its authors' code, followed here, takes
the mean square. The weight 1000 is for that mean over the maps of 32x32 pictures: where a map has
only a few places, as on 8x8 digits, a hundredth of it is enough
(docs/results/methods-on-digits.md).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of attention transfer."""

    weight: float = Field(1000.0, ge=0, description="Weight of the attention term.")
    p: float = Field(
        2.0, ge=1, description="Power of the absolute values that attention adds up over channels."
    )


class AttentionTransfer(FeatureMethod):
    """Trains the student to have the teacher's attention maps after each stage."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*",)
    teacher_taps = ("stage*",)
    consumes = "maps of all stages"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        s_maps, t_maps = zip(*self.pairs(student, teacher), strict=True)
        return {"at": self.options.weight * losses.at(s_maps, t_maps, p=self.options.p)}
