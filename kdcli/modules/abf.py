"""ABF, the attention-based fusion of knowledge review: a level of the student joined with what came
of all deeper ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ABF(nn.Module):
    """One level of the review.

        x' = norm(conv1x1(x))
        x' = a_0 x' + a_1 y,  (a_0, a_1) = sigmoid(conv1x1([x', y])) at each position
        out = norm(conv3x3(x'))

    y are the deeper levels, brought to this size; before the last line x' is brought to the
    teacher's. Sizes change by nearest neighbour and are read from what comes in, so that any pair
    of networks fits. Source: Chen et al. 2021, Distilling knowledge via knowledge review;
    ReviewKD@6607308a and mdistiller@e8c5bb33 mdistiller/distillers/ReviewKD.py.

    Args:
        channels_in: of the student's map. mid: of what the levels pass on. channels: of the
            teacher's map.
        fuses: False for the deepest level, which has nothing to join.
    """

    def __init__(self, channels_in: int, mid: int, channels: int, *, fuses: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels_in, mid, kernel_size=1, bias=False), _Norm(mid)
        )
        self.expand = nn.Sequential(
            nn.Conv2d(mid, channels, kernel_size=3, padding=1, bias=False), _Norm(channels)
        )
        self.attention = (
            nn.Sequential(nn.Conv2d(2 * mid, 2, kernel_size=1), nn.Sigmoid()) if fuses else None
        )
        for part in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(part[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, x: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Fuses a level.

        Args:
            x: the student's map [B,channels_in,H,W].
            deeper: what the next deeper level passed on [B,mid,H',W'], or None for the deepest.
            size: height and width of the teacher's map.

        Returns:
            What to pass on [B,mid,*size], and what to compare with the teacher's map
            [B,channels,*size].
        """
        x = self.reduce(x)
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, x.shape[2:])
            ours, theirs = self.attention(torch.cat([x, deeper], 1)).unsqueeze(2).unbind(1)
            x = ours * x + theirs * deeper
        x = _resized(x, size)
        return x, self.expand(x)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[2:] == size else functional.interpolate(x, size=tuple(size), mode="nearest")


class _Norm(nn.BatchNorm2d):
    """A batch norm that falls back on its running statistics for a single value a channel: an only
    image's pooled vector has no variance.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2:].numel() == 1:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)
