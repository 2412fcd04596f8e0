"""Correlation congruence: relations between the samples of a batch, in learnt embeddings

Paper: B. Peng, X. Jin, J. Liu, S. Zhou, Y. Wu, Y. Liu, D. Li, Z. Zhang, Correlation congruence for
knowledge distillation, ICCV 2019, arXiv:1904.01802.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/CC.py (form
"code"); https://github.com/yoshitomo-matsubara/torchdistill@95998d87
torchdistill/losses/mid_level.py (form "paper")

    code:   L = w_ce CE(z, y) + w_kd KD(z, v) + w mean_i <delta_i, delta_(i+1)>,  delta = | e_s -
    e_t |
    paper:  L = w_ce CE(z, y) + w_kd KD(z, v) + w mean_ij ( k(s_i, s_j) - k(t_i, t_j) )^2

e_s and e_t are linear embeddings of both pooled features, trained and thrown away; s and t are the
same divided by their norms; k(a,b) = exp(-2 gamma) sum_(p <= order) (2 gamma <a, b>)^p / p!, the
Taylor expansion of a Gaussian kernel.

The two forms have little in common. The first is what RepDistiller had from the paper's authors and
what the field's tables measure: it depends on the order of the samples, and both embeddings are
free to shrink.

Differs from the paper: the default is the form of the code, without a term on logits; the paper has
one (kd_weight), and batches with several images of each class. A published weight for a sum over
the N^2 pairs divided by N is here N times as large: torchdistill's 0.003 is weight = 0.192 at N =
64. On several devices each compares the images of its own part of the batch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod

FAMILY = "relation"


class Options(FeatureOptions):
    """Options of correlation congruence."""

    weight: float = Field(0.02, ge=0, description="Weight of the congruence term.")
    form: Literal["code", "paper"] = Field(
        "code", description="Products of neighbours' differences, or correlation matrices."
    )
    embedding: int = Field(128, ge=1, description="Width of both embeddings.")
    gamma: float = Field(0.4, gt=0, description='Width of the kernel; form "paper".')
    order: int = Field(
        2, ge=1, description='Highest power of the kernel\'s expansion; form "paper".'
    )


class CorrelationCongruence(FeatureMethod):
    """Trains the student's embedding to be congruent with the teacher's over a batch."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("pooled",)
    teacher_taps = ("pooled",)
    consumes = "pooled features"
    trains = "student, two embeddings"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        ((ours, theirs),) = self.channels()
        self.embed_student = nn.Linear(ours, options.embedding)
        self.embed_teacher = nn.Linear(theirs, options.embedding)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        options = self.options
        loss = losses.cc(
            self.embed_student(s),
            self.embed_teacher(t),
            form=options.form,
            gamma=options.gamma,
            order=options.order,
        )
        return {"cc": options.weight * loss}
