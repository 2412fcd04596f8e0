"""ReviewKD: every level of the student, joined with all deeper ones, learns the teacher's level

Paper: P. Chen, S. Liu, H. Zhao, J. Jia, Distilling knowledge via knowledge review, CVPR 2021,
arXiv:2104.09044.
Reference code: https://github.com/dvlab-research/ReviewKD@6607308a CIFAR-100/model/reviewkd.py;
https://github.com/megvii-research/mdistiller@e8c5bb33 mdistiller/distillers/ReviewKD.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w min(e / E, 1) sum_levels HCL( ABF(f_s^l, deeper levels),
    f_t^l )

Levels are the maps of all stages and the pooled vector, as a map of one position. From the deepest
on, each is reduced to a common width, mixed with what comes from below by weights that an attention
gives each position (kdcli.modules.abf), and taken to the teacher's channels and size, which are
read from its maps: any pair of networks will do. HCL compares a level as it is and pooled to 4x4,
2x2 and 1x1. e is the epoch, E the warm-up. Published weights for CIFAR-100: 0.6 (resnet56 to
resnet20), 1 (resnet110 to resnet32), 5 (resnet32x4 to resnet8x4 and ShuffleNetV1; wrn_40_2 to any),
8 (resnet32x4 to ShuffleNetV2).

Differs from the paper: nothing is known to. Student maps are taken after, teacher maps before their
activations, as in both codes for CIFAR; for ImageNet both are before: preact.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, MethodOptions, Setup, Taps
from kdcli.core.options import FeatureOptions
from kdcli.core.taps import check_maps
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.abf import ABF

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of ReviewKD."""

    weight: float = Field(1.0, ge=0, description="Weight of the levels' term after the warm-up.")
    warmup_epochs: int = Field(
        20,
        ge=0,
        description="Epochs over which the weight grows linearly to its full value; 0: none.",
    )
    preact: bool = Field(
        default=False, description="Take the student's maps before their activations too."
    )
    max_width: int = Field(
        512,
        ge=1,
        description=(
            "Most channels of what the levels pass on; the student's pooled vector bounds it too."
        ),
    )


class KnowledgeReview(FeatureMethod):
    """Trains the student's levels, each fused with the deeper ones, on the teacher's."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*", "pooled")
    teacher_taps = ("stage*.pre", "pooled")
    consumes = "maps of all stages before activation, pooled vector"
    trains = "student, fusion modules"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        check_maps(self.student, self.taps.student[:-1], "reviewkd")
        check_maps(self.teacher_net, self.taps.teacher[:-1], "reviewkd")
        channels = self.channels()
        width = min(options.max_width, channels[-1][0])
        deepest = len(channels) - 1
        self.fusions = nn.ModuleList(
            ABF(ours, width, theirs, fuses=level != deepest)
            for level, (ours, theirs) in enumerate(channels)
        )

    @classmethod
    def patterns(cls, options: MethodOptions) -> Taps:
        if isinstance(options, Options) and options.preact:
            return Taps(cls.teacher_taps, cls.teacher_taps)
        return super().patterns(options)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        *maps, (h_s, h_t) = self.pairs(student, teacher)
        levels = [*maps, (h_s[..., None, None], h_t[..., None, None])]
        passed, fused = None, []
        for fusion, (s, t) in zip(reversed(self.fusions), reversed(levels), strict=True):
            passed, out = fusion(s, passed, t.shape[2:])
            fused.append(out)
        review = losses.hcl(fused, [t for _, t in reversed(levels)])
        return {"review": self.options.weight * at.warmup(self.options.warmup_epochs) * review}
