"""CAT-KD: class attention transfer, what each part of a picture says of each class

Paper: Z. Guo, H. Yan, H. Li, X. Lin, Class attention transfer based knowledge distillation,
CVPR 2023, arXiv:2304.12777.
Reference code: https://github.com/GzyAftermath/CAT-KD@2657a680 mdistiller/distillers/CAT_KD.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w mean ( pool(A_s) - pool(A_t) )^2,  A_k(position) = sum_c
    W_kc f_c(position)

A_s and A_t are the class activation maps of student and teacher: the weights W of a last layer,
laid on each position of the map f whose average it reads. pool averages them to resolution x
resolution. The gradient reaches the student's map and its last layer. Published weights for
CIFAR-100: 0.7 (resnet56 to resnet20), 15 (resnet32x4 to resnet8x4); all without normalise.

Differs from the paper: the same maps, read from networks as they are; that code makes their last
layers convolutions first, which gives the same numbers. A network whose last layer reads anything
but the average of its last map has no such maps and is refused.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.network import Network
from kdcli.core.options import FeatureOptions
from kdcli.core.taps import averaged_map, name_of
from kdcli.core.types import Batch, Output, Progress
from kdcli.errors import Incompatible
from kdcli.methods._feature import FeatureMethod

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of CAT-KD."""

    weight: float = Field(
        15.0, ge=0, description="Weight of the class activation maps' difference."
    )
    resolution: int = Field(2, ge=1, description="Side of the pooled maps.")
    normalise: bool = Field(
        default=False, description="Divide each pooled map by its norm over positions."
    )


class ClassAttentionTransfer(FeatureMethod):
    """Trains the student's class activation maps to be the teacher's."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("last",)
    consumes = "last map, teacher head"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        _ = self.teacher_net.head  # a teacher whose classes are merged has none, and says so here
        self.require_maps()
        for network in (self.student, self.teacher_net):
            _require_average(network)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        options = self.options
        ours = losses.class_activation(s, self.student.head.weight)
        theirs = losses.class_activation(t, self.teacher_net.head.weight)
        loss = losses.cat_kd(
            ours, theirs, resolution=options.resolution, normalise=options.normalise
        )
        return {"cat": options.weight * loss}


def _require_average(network: Network) -> None:
    if averaged_map(network) is None:
        raise Incompatible(
            f"cat_kd reads class activation maps, and the last layer of {name_of(network)} does "
            "not read the average of its last map",
            hint="a network that ends in an average, such as resnet20, or another method",
        )
