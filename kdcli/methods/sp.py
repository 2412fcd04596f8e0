"""Similarity-preserving distillation: images that look alike to the teacher shall look alike to the
student

Paper: F. Tung, G. Mori, Similarity-preserving knowledge distillation, ICCV 2019, arXiv:1907.09682.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/SP.py;
https://github.com/megvii-research/mdistiller@e8c5bb33 mdistiller/distillers/SP.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w | G_s - G_t |_F^2 / N^2,  G = F F^T with rows divided by
    their norms

F holds one flattened map a row, of the last stage. Shapes may differ: only the N x N matrices of a
batch are compared.

Differs from the paper: one pair of maps, the last, as in both reference codes; the paper allows
several. On several devices each compares the images of its own part of the batch.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod

FAMILY = "relation"


class Options(FeatureOptions):
    """Options of similarity-preserving distillation."""

    weight: float = Field(3000.0, ge=0, description="Weight of the similarity term.")


class SimilarityPreserving(FeatureMethod):
    """Trains the student to find the same images of a batch similar."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("last",)
    consumes = "last map"

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        return {"sp": self.options.weight * losses.sp(s, t)}
