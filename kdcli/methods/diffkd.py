"""DiffKD: the student's features are noisy ones of the teacher, and a diffusion model cleans them

Paper: T. Huang, Y. Zhang, M. Zheng, S. You, F. Wang, C. Qian, C. Xu, Knowledge diffusion for
distillation, NeurIPS 2023, arXiv:2305.15712.
Reference code: https://github.com/hunto/DiffKD@2393a4ab diffkd.py, diffkd_modules.py,
scheduling_ddim.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w mean ( P(D(g(f_s))) - c )^2 + w_d mean ( e(c_t, t) - noise
    )^2 + w_a mean ( f_t - dec(c) )^2,  c = enc(f_t)

f_s and f_t are the last maps, enc and dec a linear code of the teacher's with half its channels, g
a 1x1 convolution to it, e a small network that learns to find the noise in codes, D the way back
from noise by e in five steps, P another 1x1 convolution. How much noise is added to a student's map
first, a third network says for each picture. All are trained and thrown away; the code learns from
the last term alone.

The released code gives the three losses unweighted (DiffKD@2393a4ab example.py), so all weights are
1 here; half the channels and five steps are its defaults. The paper's own weights were not at hand.

Differs from the paper: on feature maps; the paper diffuses logits too, where kd_weight = 1 has
Hinton's term. Noise and times are a function of seed, epoch, step and sample: a resumed run draws
the same. Maps of unequal sizes are brought to the smaller one.
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
from kdcli.modules.diffusion import Codec, Denoiser

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of DiffKD."""

    weight: float = Field(1.0, ge=0, description="Weight of the cleaned maps' difference.")
    diffusion_weight: float = Field(1.0, gt=0, description="Weight of the noise that is not found.")
    code_weight: float = Field(1.0, gt=0, description="Weight of what the code loses.")
    code: int | None = Field(
        None, ge=1, description="Channels of the code; half the teacher's unless given."
    )
    steps: int = Field(5, ge=1, le=500, description="Steps of the way back from noise.")


class KnowledgeDiffusion(FeatureMethod):
    """Trains the student so that what diffusion makes of its features is the teacher's."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("last",)
    consumes = "last map"
    trains = "student, code, denoiser"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        ((ours, theirs),) = self.channels()
        code = options.code or max(theirs // 2, 1)
        self.codec = Codec(theirs, code)
        self.connector = nn.Conv2d(ours, code, kernel_size=1)
        self.denoiser = Denoiser(code, options.steps)
        self.projector = nn.Conv2d(code, code, kernel_size=1)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        s, t = losses.same_size(s, t)
        code, back = self.codec(t)
        code = code.detach().float()
        noise = self._noise(batch, at, "diffkd student", code)
        refined = self.projector(self.denoiser.denoised(self.connector(s), noise))
        times = random.integers(
            random.key(self.seed, "diffkd time", at.epoch, at.step), batch.index, 1000
        )
        found = self.denoiser.training_loss(
            code, self._noise(batch, at, "diffkd teacher", code), times
        )
        options = self.options
        return {
            "diffkd": options.weight * losses.fitnet(refined, code),
            "diffusion": options.diffusion_weight * found,
            "code": options.code_weight * losses.fitnet(back, t),
        }

    def _noise(self, batch: Batch, at: Progress, purpose: str, like: Tensor) -> Tensor:
        """Normal numbers [B,C,H,W], a draw a sample, whatever minibatch or rank it is in."""
        size = like[0].numel()
        counters = batch.index.unsqueeze(1) * size + torch.arange(size, device=like.device)
        key = random.key(self.seed, purpose, at.epoch, at.step)
        return random.normal(key, counters).view_as(like)
