"""MGD: the teacher's map is generated from the student's, parts of which are masked

Paper: Z. Yang, Z. Li, M. Shao, D. Shi, Z. Yuan, C. Yuan, Masked generative distillation,
ECCV 2022, arXiv:2205.01529.
Reference code: https://github.com/yzd-v/MGD@046aba2d cls/mmcls/distillation/losses/mgd.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w mean_b sum ( G( M a(f_s) ) - f_t )^2

f_s and f_t are the last maps, a a 1x1 convolution to the teacher's channels where these differ, M
masks each channel of each picture with probability masked, G is two 3x3 convolutions with a ReLU
between. a and G are trained and thrown away. That is the form for classification: for detection and
segmentation the paper masks positions.

Differs from the paper: nothing is known to. Its weight and share are for ImageNet; none were
published for CIFAR. Maps of unequal sizes are brought to the smaller one, where that code refuses
them. Masks are a function of seed, epoch, step and sample: a resumed run draws the same.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core import random
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.generator import Generator

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of MGD."""

    weight: float = Field(
        7e-5, ge=0, description="Weight of the squared difference, a sum over the map."
    )
    masked: float = Field(0.15, ge=0, lt=1, description="Share of the channels that are masked.")


class MaskedGeneration(FeatureMethod):
    """Trains student and generator to give the teacher's map from a part of the student's."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("last",)
    consumes = "last map"
    trains = "student, generator"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        ((ours, theirs),) = self.channels()
        self.align = nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, kernel_size=1)
        self.generator = Generator(theirs)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        s, t = losses.same_size(self.align(s), t)
        # a draw a sample and channel, whatever minibatch or rank the sample is in
        counters = batch.index.unsqueeze(1) * s.shape[1] + torch.arange(s.shape[1], device=s.device)
        draws = random.uniform(random.key(self.seed, "mgd mask", at.epoch, at.step), counters)
        kept = (draws >= self.options.masked)[:, :, None, None]
        return {"mgd": self.options.weight * losses.mgd(self.generator(s * kept), t)}
