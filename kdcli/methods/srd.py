"""SRD: a linear projector, batch norm on both sides, and the logarithm of a high power

Paper: R. Miles, K. Mikolajczyk, Understanding the role of the projector in knowledge distillation,
AAAI 2024, arXiv:2303.11098.
Reference code: https://github.com/roymiles/Simple-Recipe-Distillation@31e8477c
imagenet/torchdistill/losses/single.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w log sum_b,d | BN(W h_s + c) - BN(h_t) |^4

h_s and h_t are the vectors that feed the last layers, W and c the projector, trained and thrown
away. Batch norms have no scale and shift of their own. The logarithm keeps the largest differences,
which the power picks out, from ruling where teacher and student are far apart in size.

Differs from the paper: nothing is known to. The weights are that code's for ImageNet (w = 2 and the
teacher's logits at temperature 1 with weight 1); it has none for CIFAR. On several devices each
normalises the vectors of its own part of the batch.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.vector_norm import VectorNorm

FAMILY = "feature"

_EPS = 1e-4  # of the batch norms, as in the reference code


class Options(FeatureOptions):
    """Options of SRD."""

    kd_weight: float = Field(1.0, ge=0, description="Weight of Hinton's term on the logits.")
    temperature: float = Field(1.0, gt=0, description="Softmax temperature tau of that term.")
    weight: float = Field(2.0, ge=0, description="Weight of the logarithm.")
    exponent: float = Field(4.0, gt=0, description="Power of the differences.")


class ProjectedFeatures(FeatureMethod):
    """Trains student and projector so that the projected features are the teacher's, normalised."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("pooled",)
    teacher_taps = ("pooled",)
    consumes = "pooled vector, teacher logits"
    trains = "student, projector"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        ((ours, theirs),) = self.channels()
        self.projector = nn.Linear(ours, theirs)
        self.student_norm = VectorNorm(theirs, eps=_EPS, affine=False)
        self.teacher_norm = VectorNorm(theirs, eps=_EPS, affine=False)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((h_s, h_t),) = self.pairs(student, teacher)
        s, t = self.student_norm(self.projector(h_s)), self.teacher_norm(h_t)
        return {"srd": self.options.weight * losses.srd(s, t, exponent=self.options.exponent)}
