"""Exits from the middle of a network to logits, where one-for-all distillation compares: nothing is
left there of what kind of network it is.

Source: Hao et al. 2023, One-for-all: bridge the gap between heterogeneous architectures in
knowledge distillation, section 3.3; OFAKD@12eeba86 distillers/ofa.py, distillers/utils.py.
"""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

_GRID = 7  # tokens a side that a transformer's exit works on, at most
_SPREAD = 0.02  # standard deviation of fresh linear layers


class ConvolutionExit(nn.Sequential):
    """From a map to logits: [B,C,H,W] to [B,K].

    Args:
        channels: C. width: of what the last layer reads. classes: K. halvings: stages that follow
            in the network, each of which halves the map; a 1x1 convolution where there are none.
    """

    def __init__(self, channels: int, width: int, classes: int, halvings: int) -> None:
        # a stage doubles the channels, and the last one has the width
        widths = [channels * 2**number for number in range(halvings)] + [width]
        steps: list[nn.Module] = [
            _separable(before, after) for before, after in itertools.pairwise(widths)
        ]
        super().__init__(
            *(steps or [nn.Conv2d(channels, width, kernel_size=1)]),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )
        self.apply(_fresh)


class TokenExit(nn.Module):
    """From tokens laid out as a map to logits: merged 2x2 by 2x2 while there are more than 7 a
    side, then blocks of a transformer, their mean, a linear layer. [B,D,H,W] to [B,K].

    Args:
        tokens: D. classes: K. grid: tokens a side of the picture, height and width. blocks: how
            many.
    """

    def __init__(self, tokens: int, classes: int, grid: tuple[int, int], blocks: int) -> None:
        super().__init__()
        merges: list[nn.Module] = []
        sides = list(grid)
        while min(sides) >= 2 * _GRID and all(side % 2 == 0 for side in sides):
            merges.append(_Merge(tokens))
            sides = [side // 2 for side in sides]
        self.merges = nn.Sequential(*merges)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    tokens,
                    math.gcd(4, tokens),
                    4 * tokens,
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(blocks)
            )
        )
        self.head = nn.Linear(tokens, classes)
        self.apply(_fresh)

    def forward(self, x: Tensor) -> Tensor:
        """[B,D,H,W] to [B,K]."""
        x = self.blocks(self.merges(x).flatten(2).transpose(1, 2))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class _Merge(nn.Module):
    """Each square of 2x2 tokens as one: a norm of all four, a linear layer, GELU."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * tokens)
        self.reduce = nn.Linear(4 * tokens, tokens, bias=False)
        self.act = nn.GELU()
        self.fold = nn.PixelUnshuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B,D,H,W] to [B,D,H/2,W/2]."""
        four = self.fold(x).permute(0, 2, 3, 1)
        return self.act(self.reduce(self.norm(four))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def _separable(channels: int, width: int) -> nn.Sequential:
    """Two depthwise separable convolutions, the first of which halves the map."""
    layers: list[nn.Module] = []
    for stride, after in ((2, channels), (1, width)):
        layers += [
            nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, after, kernel_size=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _fresh(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_SPREAD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
