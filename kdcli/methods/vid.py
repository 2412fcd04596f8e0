"""Variational information distillation: predict the teacher's maps and one's own error

Paper: S. Ahn, S. X. Hu, A. Damianou, N. D. Lawrence, Z. Dai, Variational information distillation
for knowledge transfer, CVPR 2019, arXiv:1904.05835.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/VID.py;
https://github.com/megvii-research/mdistiller@e8c5bb33 mdistiller/distillers/VID.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w sum_l mean [ (mu_l(f_s^l) - f_t^l)^2 / var_l + log var_l ]
    / 2

That is a variational lower bound of the information that the student's maps have about the
teacher's, up to sign and constants. mu is three 1x1 convolutions without bias, ReLU between; var is
one number a channel of the teacher's, learnt, 5 at first. A larger map is average-pooled to the
smaller before mu. The loss can be negative. Regressors and variances are thrown away.

Differs from the paper: maps of all stages, as in RepDistiller, and not the penultimate layer.
Variances are learnt as in both; mdistiller leaves them at 5, for it does not give them to the
optimiser.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod

FAMILY = "feature"

_FIRST_LOG_SCALE = math.log(math.expm1(5.0 - 1e-5))  # losses.vid makes a variance of 5 of it


class Options(FeatureOptions):
    """Options of variational information distillation."""

    weight: float = Field(
        1.0, ge=0, description="Weight of the negative log likelihood of the teacher's maps."
    )


class VariationalInformation(FeatureMethod):
    """Trains the student so that the teacher's map after each stage can be predicted from its
    own.
    """

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*",)
    teacher_taps = ("stage*",)
    consumes = "maps of all stages"
    trains = "student, a regressor and variances for each map"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        self.regressors = nn.ModuleList(
            _regressor(ours, theirs) for ours, theirs in self.channels()
        )
        self.log_scales = nn.ParameterList(
            torch.full((theirs,), _FIRST_LOG_SCALE) for _, theirs in self.channels()
        )

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        terms = []
        for regressor, log_scale, pair in zip(
            self.regressors, self.log_scales, self.pairs(student, teacher), strict=True
        ):
            s, t = losses.same_size(*pair)
            terms.append(losses.vid(regressor(s), log_scale, t))
        return {"vid": self.options.weight * torch.stack(terms).sum()}


def _regressor(ours: int, theirs: int) -> nn.Module:
    rows = [
        nn.Conv2d(channels, theirs, kernel_size=1, bias=False)
        for channels in (ours, theirs, theirs)
    ]
    return nn.Sequential(rows[0], nn.ReLU(), rows[1], nn.ReLU(), rows[2])
