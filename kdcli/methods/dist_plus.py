"""DIST+: correlations of probabilities, and of the last maps

Paper: T. Huang, S. You, F. Wang, C. Qian, C. Xu, DIST+: knowledge distillation from a stronger
adaptive teacher, IEEE TPAMI 47(7), 2025, doi:10.1109/TPAMI.2025.3554235.
Reference code: https://github.com/yoshitomo-matsubara/torchdistill, release 1.1.4,
torchdistill/losses/mid_level.py, DISTPlusLoss; none of the authors' is known to be published.

    L = w_ce CE(z, y) + w (beta inter + gamma intra) + w_c channel + w_s spatial
    channel = 1 - mean over B, H W of r(s_b:hw, t_b:hw),   spatial = 1 - mean over H W of r(S_:hw,
    T_:hw),   S = sum_c s_bc

inter and intra are those of `dist`, which compares the logits alone. s and t are the maps of the
last stage, and r is Pearson's correlation: over the channels at one place of one image, and over
the images of the minibatch at one place of the maps summed over channels. So the batch matters:
each process that trains looks at its own part. Where the student has other channels than its
teacher, a 1x1 convolution with batch norm and ReLU makes them the teacher's, is trained beside it
and thrown away.

All weights of DIST+ are 1 in that code and tau is 1; those of the first two terms, and tau, are
those of `dist` here. No weights for CIFAR are known.

Differs from the paper: the teacher stays as it is. The paper's teacher acclimation, which brings it
nearer to the student, is no part of this. Differs from the code, which adds the channels'
correlation itself, so that it falls as the loss does: here 1 less it.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.connector import Connector

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of DIST+."""

    temperature: float = Field(
        4.0,
        gt=0,
        description="Softmax temperature tau of both sides, where logits are compared.",
    )
    weight: float = Field(2.0, ge=0, description="Weight of both correlations of probabilities.")
    beta: float = Field(
        1.0, ge=0, description="Share of the correlation over the classes of an image."
    )
    gamma: float = Field(
        1.0, ge=0, description="Share of the correlation over the images of a class."
    )
    channel_weight: float = Field(
        1.0, ge=0, description="Weight of the maps' correlation over channels."
    )
    spatial_weight: float = Field(
        1.0, ge=0, description="Weight of the maps' correlation over images."
    )


class StrongerAdaptiveTeacher(FeatureMethod):
    """Trains the student on labels and on how its probabilities and its last map correlate with the
    teacher's.
    """

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("last",)
    consumes = "last map, teacher logits"
    trains = "student, connector where channels differ"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        ((ours, theirs),) = self.channels()
        self.connector = nn.Identity() if ours == theirs else Connector(ours, theirs, relu=True)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        options = self.options
        inter, intra = losses.correlations(
            student.logits, teacher.logits, temperature=options.temperature
        )
        ((s, t),) = self.pairs(student, teacher)
        channel, spatial = losses.map_correlations(self.connector(s), t)
        return {
            "inter": options.weight * options.beta * inter,
            "intra": options.weight * options.gamma * intra,
            "channel": options.channel_weight * channel,
            "spatial": options.spatial_weight * spatial,
        }
