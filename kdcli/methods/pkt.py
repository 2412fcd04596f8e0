"""Probabilistic knowledge transfer: which samples are each other's neighbours

Paper: N. Passalis, A. Tefas, Learning deep representations with probabilistic knowledge transfer,
ECCV 2018, arXiv:1803.10837.
Reference code: https://github.com/passalis/probabilistic_kt@bbca0b84 nn/pkt.py;
https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/PKT.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w mean_ij q_ij log( q_ij / p_ij ),  p_ij, q_ij = ( cos(h_i,
    h_j) + 1 ) / 2 over their row's sum

p is the student's and q the teacher's chance that sample i of a batch picks sample j as its
neighbour, from pooled features. Widths may differ. The mean over N^2 is small, hence the weight.

Differs from the paper: the diagonal, each sample as its own neighbour, is included, as in both
codes. Of the paper's kernels the cosine, which has no width to choose. On several devices each
compares the images of its own part of the batch.
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
    """Options of probabilistic knowledge transfer."""

    weight: float = Field(30000.0, ge=0, description="Weight of the divergence.")


class ProbabilisticTransfer(FeatureMethod):
    """Trains the student to have the teacher's neighbourhoods in a batch."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("pooled",)
    teacher_taps = ("pooled",)
    consumes = "pooled features"

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        return {"pkt": self.options.weight * losses.pkt(s, t)}
