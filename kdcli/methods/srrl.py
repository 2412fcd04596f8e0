"""SRRL: the student's features read by the teacher's own head

Paper: J. Yang, B. Martinez, A. Bulat, G. Tzimiropoulos, Knowledge distillation via softmax
regression representation learning, ICLR 2021.
Reference code: https://github.com/jingyang2017/KD_SRRL@051ccc11 train_imagenet_distillation.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w_fm mean (h_s - h_t)^2 + w mean (W_t h_s + b_t - v)^2,  h_s
    = pool(g(f_s))

f_s is the student's last map, g a 1x1 convolution with batch norm and ReLU, h_t the vector that the
teacher's head (W_t, b_t) reads. The second term asks that the student's features be the teacher's,
the third that they mean the same to its head, through which the gradient flows and which stays as
it is. g is thrown away.

Differs from the paper: the squared error between logits, as in that code, instead of a divergence
between their softmaxes. h_t is what the head reads, which is the average of the last map wherever
the teacher ends in a pool, and fits where it does not. w_fm and w are one weight in that code, 1
for ImageNet; for CIFAR none was published: try 0.1, 1 and 10.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.taps import check_maps
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.connector import Connector

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of SRRL."""

    weight: float = Field(
        1.0,
        ge=0,
        description=(
            "Weight of the teacher's logits against those that its head makes of the student's "
            "features."
        ),
    )
    feature_weight: float = Field(
        1.0, ge=0, description="Weight of the difference of the features."
    )


class SoftmaxRegression(FeatureMethod):
    """Trains the student so that its features, connected, give the teacher's logits under the
    teacher's head.
    """

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("pooled",)
    consumes = "pooled vector, teacher logits and head"
    trains = "student, connector"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        check_maps(self.student, self.taps.student, "srrl")
        _ = self.teacher_net.head  # a teacher whose classes are merged has none, and says so here
        ((ours, theirs),) = self.channels()
        self.connector = Connector(ours, theirs, relu=True)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, h_t),) = self.pairs(student, teacher)
        h_s, head = self.connector(s).mean((2, 3)), self.teacher_net.head
        return {
            "fm": self.options.feature_weight * losses.srrl_features(h_s, h_t),
            "sr": self.options.weight * losses.srrl(h_s, teacher.logits, head.weight, head.bias),
        }
