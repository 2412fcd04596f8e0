"""KD-SVD: how the main directions of one layer lie to those of the next

Paper: S. H. Lee, D. H. Kim, B. C. Song, Self-supervised knowledge distillation using singular value
decomposition, ECCV 2018, arXiv:1807.06819.
Reference code: https://github.com/HobbitLong/RepDistiller@1e2f8169 distiller_zoo/KDSVD.py;
https://github.com/megvii-research/mdistiller@e8c5bb33 mdistiller/distillers/KDSVD.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w sum_l mean_b sum ( R(v_s^l+1, v_s^l) - R(v_t^l+1, v_t^l)
    )^2,  R(a, b)_cc' = exp( -(a_c - b_c')^2 / 8 )

v^l are the first right singular vectors of the map after stage l, a matrix of positions and
channels. The student's is the most parallel one of its first four. Student and teacher have the
same channels. Each picture costs a decomposition a map: slow on a GPU.

Differs from the paper: all is learnt in one stage, as in both codes, without its clipping of
gradients; instead the gradient of vectors whose singular values are nearly equal is damped, where
it has no bound (losses.kdsvd). A vector points to where its sum is positive. The weight, 1, and one
vector a map are those of mdistiller@a08d46f1 mdistiller/engine/cfg.py.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.errors import Incompatible
from kdcli.methods._feature import FeatureMethod, require_equal_channels

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of KD-SVD."""

    weight: float = Field(1.0, ge=0, description="Weight of the relations' difference.")
    vectors: int = Field(1, ge=1, description="Singular vectors of each map.")


class SingularVectors(FeatureMethod):
    """Trains the main directions of the student's stages to lie to each other as the teacher's."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*",)
    teacher_taps = ("stage*",)
    consumes = "maps of all stages"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        require_equal_channels(self, "kdsvd compares singular vectors channel by channel")
        if len(self.taps.student) < 2:
            raise Incompatible(
                "kdsvd compares neighbouring stages, and one of its networks has a single one",
                hint="kd methods lists those that read one map",
            )

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        s_maps, t_maps = zip(*self.pairs(student, teacher), strict=True)
        loss = losses.kdsvd(s_maps, t_maps, vectors=self.options.vectors)
        return {"kdsvd": self.options.weight * loss}
