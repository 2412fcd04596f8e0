"""ViTKD: a transformer's first tokens are imitated, its last ones generated from half of them

Paper: Z. Yang, Z. Li, A. Zeng, Z. Li, C. Yuan, Y. Li, ViTKD: practical guidelines for ViT feature
knowledge distillation, CVPR workshop 2024, arXiv:2209.02432.
Reference code: https://github.com/yzd-v/cls_KD@8a165628 mmcls/distillation/losses/vitkd.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + alpha sum_l mean_b sum ( A_l(f_s^l) - f_t^l )^2
    + beta / masked mean_b sum_masked ( G( M A(f_s) ) - f_t )^2

f^l are the tokens of the picture after block l, of the first `shallow` blocks; f those of the last
block, laid out as a map. A are linear layers to the teacher's width where the widths differ, M puts
a learnt token in the place of a share `masked` of each picture's tokens, G is two 3x3 convolutions
with a ReLU between. Only masked places are compared. All is trained and thrown away.

Defaults are that code's for ImageNet, alpha 3e-5, beta 3e-6, masked 1/2, two shallow blocks; none
were published for CIFAR. Both terms are sums over tokens and numbers of a token.

Differs from the paper: the last tokens are taken before the last norm, where that code takes them
behind it. Class and distillation tokens are left out, as there. Grids of unequal sizes are brought
to the smaller one. Masks are a function of seed, epoch, step and sample: a resumed run draws the
same.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core import random
from kdcli.core.method import Arity, MethodOptions, Setup, Taps
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._checks import need_tokens
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.generator import Generator

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of ViTKD."""

    alpha: float = Field(3e-5, ge=0, description="Weight of imitating the first blocks.")
    beta: float = Field(3e-6, ge=0, description="Weight of generating the last block's tokens.")
    masked: float = Field(0.5, gt=0, lt=1, description="Share of the last tokens that is masked.")
    shallow: int = Field(2, ge=1, description="How many blocks are imitated, from the first on.")


class TransformerFeatures(FeatureMethod):
    """Trains the student's tokens toward the teacher's: early ones as they are, late ones by way of
    a generator.
    """

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("block1", "block2", "last")
    teacher_taps = ("block1", "block2", "last")
    consumes = "tokens of the first blocks and the last"
    trains = "student, linear layers, mask token, generator"

    def __init__(self, options: Options, setup: Setup) -> None:
        for network in (setup.student, *(teacher.network for teacher in setup.teachers)):
            need_tokens("vitkd", network)
        super().__init__(options, setup)
        *early, late = [
            nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, kernel_size=1)
            for ours, theirs in self.channels()
        ]
        self.early, self.late = nn.ModuleList(early), late
        width = self.teacher_net.taps[self.taps.teacher[-1]].channels
        self.mask_token = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.generator = Generator(width)

    @classmethod
    def patterns(cls, options: MethodOptions) -> Taps:
        assert isinstance(options, Options)
        taps = (*(f"block{number}" for number in range(1, options.shallow + 1)), "last")
        return Taps(taps, taps)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        options = self.options
        *early, (s, t) = self.pairs(student, teacher)
        imitated = torch.stack(
            [
                losses.mgd(align(ours), theirs)
                for align, (ours, theirs) in zip(self.early, early, strict=True)
            ]
        ).sum()
        s, t = losses.same_size(self.late(s), t)
        masked = self._masked(batch, at, s)
        generated = self.generator(torch.where(masked, self.mask_token.to(s.dtype), s))
        # where nothing is masked both sides are 0, and nothing is compared
        found = losses.mgd(generated * masked, t * masked)
        return {
            "imitated": options.alpha * imitated,
            "generated": options.beta / options.masked * found,
        }

    def _masked(self, batch: Batch, at: Progress, x: Tensor) -> Tensor:
        """Which tokens of x [B,C,H,W] are masked, [B,1,H,W]: as many of each picture."""
        count = x.shape[2] * x.shape[3]
        places = torch.arange(count, device=x.device)
        key = random.key(self.seed, "vitkd mask", at.epoch, at.step)
        draws = random.uniform(key, batch.index.unsqueeze(1) * count + places)
        rank = draws.argsort(1).argsort(1)
        kept = int(count * (1 - self.options.masked))
        return (rank >= kept).view(-1, 1, *x.shape[2:])
