"""Relational knowledge distillation: distances and angles between samples

Paper: W. Park, D. Kim, Y. Lu, M. Cho, Relational knowledge distillation, CVPR 2019,
arXiv:1904.05068.
Reference code: https://github.com/lenscloth/RKD@92c85630 metric/loss.py;
https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/RKD.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w [ w_D mean_ij h(d_ij^s - d_ij^t) + w_A mean_ijk h(A_ijk^s
    - A_ijk^t) ]

On pooled features: d_ij is the distance of samples i and j over the mean distance of the batch,
A_ijk the cosine of the angle at i between j and k, and h is smooth L1. Widths may differ. A batch
of N needs N^2 D + N^3 numbers.

Differs from the paper: nothing in the terms. The weights 25 and 50 and the pooled features are
those of RepDistiller. On several devices each compares the images of its own part of the batch.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.errors import UsageError
from kdcli.methods._feature import FeatureMethod

FAMILY = "relation"


class Options(FeatureOptions):
    """Options of relational knowledge distillation."""

    weight: float = Field(1.0, ge=0, description="Weight of both terms together.")
    distance: float = Field(25.0, ge=0, description="Weight of the distances; 0 leaves them out.")
    angle: float = Field(50.0, ge=0, description="Weight of the angles; 0 leaves them out.")


class RelationalDistillation(FeatureMethod):
    """Trains the student to lay out the samples of a batch as the teacher does."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("pooled",)
    teacher_taps = ("pooled",)
    consumes = "pooled features"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        if not (options.distance or options.angle):
            raise UsageError(
                "rkd with distance = 0 and angle = 0 has no term of its own", hint="--method none"
            )

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        weight, distance, angle = self.options.weight, self.options.distance, self.options.angle
        terms = {}
        if distance:
            terms["rkd_distance"] = weight * distance * losses.rkd_distance(s, t)
        if angle:
            terms["rkd_angle"] = weight * angle * losses.rkd_angle(s, t)
        return terms
