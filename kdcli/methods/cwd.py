"""CWD: where in the picture each channel responds

Paper: C. Shu, Y. Liu, J. Gao, Z. Yan, C. Shen, Channel-wise knowledge distillation for dense
prediction, ICCV 2021, arXiv:2011.13256.
Reference code: https://github.com/irfanICMLL/TorchDistiller@c2caaca0
SemSeg-distill/utils/criterion.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w tau^2 mean_b,c KL( q_c || p_c ),  q_c = softmax(f_t^c /
    tau), p_c = softmax(g(f_s)^c / tau)

f_s and f_t are the last maps, each channel f^c of which is a distribution over positions; g is a
1x1 convolution to the teacher's channels where these differ, trained and thrown away. So a channel
is asked where it responds, and not how strongly.

Differs from the paper: it is for segmentation, whose maps of logits are large; here it is on the
last feature map of a classifier. Maps of unequal sizes are brought to the smaller one.

No weight was published for classification. 50 and a temperature of 4 are what others give as the
paper's for feature maps, whose text was not at hand; the runs that lie beside the released code had
weights of 35 and 40 on feature maps, at temperatures of 1 to 10, and 3 on logits
(TorchDistiller@c2caaca0 SemSeg-distill/ckpt: KD, adversarial, feature, normalisation, divergence,
weight and temperature in each folder's name, exp_cwd.sh).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of CWD."""

    weight: float = Field(50.0, ge=0, description="Weight of the divergence over positions.")
    map_temperature: float = Field(
        4.0, gt=0, description="Softmax temperature tau over the positions of a channel."
    )


class ChannelWise(FeatureMethod):
    """Trains each channel of the student to respond where the teacher's does."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("last",)
    consumes = "last map"
    trains = "student, connector"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        ((ours, theirs),) = self.channels()
        self.connector = nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, kernel_size=1)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        loss = losses.cwd(self.connector(s), t, temperature=self.options.map_temperature)
        return {"cwd": self.options.weight * loss}
