"""What masked generative distillation makes a teacher's map of a student's masked one with."""

from __future__ import annotations

from torch import nn


class Generator(nn.Sequential):
    """3x3 convolution, ReLU, 3x3 convolution: [B,C,H,W] to the same shape.

    Source: Yang et al. 2022, Masked generative distillation, section 3.1; MGD@046aba2d
    cls/mmcls/distillation/losses/mgd.py.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        )
