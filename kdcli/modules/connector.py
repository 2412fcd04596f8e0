"""Connector: a student's map in the teacher's channels by a 1x1 convolution, as overhaul
distillation and SRRL initialise it.
"""

from __future__ import annotations

from torch import Tensor, nn


class Connector(nn.Module):
    """1x1 convolution without bias, weights from N(0, 2 / channels), then batch norm, then ReLU if
    asked for.

    Source: overhaul-distillation@76344a84 CIFAR-100/distiller.py and KD_SRRL@051ccc11, their
    connectors.

    Args:
        channels_in: of the student's map. channels: of the teacher's. relu: end with a ReLU, as for
            maps after an activation.
    """

    def __init__(self, channels_in: int, channels: int, *, relu: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel_size=1, bias=False)
        nn.init.normal_(self.conv.weight, 0.0, (2.0 / channels) ** 0.5)
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels_in,H,W] to [B,channels,H,W]."""
        return self.activation(self.norm(self.conv(x)))  # type: ignore[no-any-return]
