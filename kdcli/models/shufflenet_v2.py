"""ShuffleNet V2 of size 1 for 32x32 pictures, as the distillation literature uses it.

Ma, Zhang, Zheng, Sun: ShuffleNet V2: practical guidelines for efficient CNN architecture design,
ECCV 2018, arXiv:1807.11164, table 5, column 1x: 116, 232 and 464 channels, 1024 before the head. As
in RepDistiller's models/ShuffleNetv2.py (https://github.com/HobbitLong/RepDistiller@5237c1fd) a 1x1
convolution without pool is the stem, so that 32 pixels are left to the stages. Parameter counts
equal RepDistiller's.

A unit leaves half of its channels as they are. They were activated before, so that a ReLU over the
whole map changes nothing of them: "stageN.pre" is the map before it, shuffled like "stageN", with
those channels in it. No batch norm feeds all of it, so `norm_at` gives none. Differs from
RepDistiller: its map before the activation is not shuffled, and its channels are not those of the
map after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcli.models._checks import check_size
from kdcli.models._layers import ChannelShuffle, conv1x1, depthwise, pooled, relu_between
from kdcli.models._staged_network import Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "shufflenet_v2": {
        "summary": (
            "ShuffleNet V2, size 1, for 32x32 pictures: 3 stages of 4, 8 and 4 units, 116 to 464 "
            "channels; 1.26 M parameters"
        ),
        "arguments": {"widths": [24, 116, 232, 464, 1024], "units": [4, 8, 4]},
        "smaller": None,
    },
}


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A ShuffleNet V2 with fresh weights: torch's default ones, as RepDistiller's has.

    Raises:
        Incompatible: the pictures are smaller than 5x5.
    """
    check_size(name, input_shape, halvings=3)
    *widths, last = arguments["widths"]
    parts = list(_parts(input_shape[0], widths, arguments["units"]))
    neck = nn.Sequential(
        conv1x1(widths[-1], last), nn.BatchNorm2d(last), nn.ReLU(inplace=True), pooled()
    )
    return StagedNetwork(name, parts, neck, nn.Linear(last, num_classes))


def _branch(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    """1x1, depthwise 3x3 and 1x1 convolution, each with a norm. The ReLU after it is the
    caller's.
    """
    return nn.Sequential(
        conv1x1(channels_in, channels),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        depthwise(channels, stride=stride),
        nn.BatchNorm2d(channels),
        conv1x1(channels, channels),
        nn.BatchNorm2d(channels),
    )


class Unit(nn.Module):
    """Half of the channels pass, the other half are convolved, and both are shuffled into each
    other. The ReLU is the caller's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, stride=1)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W], not below 0, to the same shape, before the ReLU."""
        kept, changed = x.chunk(2, dim=1)
        return self.shuffle(torch.cat([kept, self.branch(changed)], dim=1))  # type: ignore[no-any-return]


class Down(nn.Module):
    """All channels go both ways, each with stride 2, half of the result from each. The ReLU is the
    caller's.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.left = nn.Sequential(
            depthwise(channels_in, stride=2),
            nn.BatchNorm2d(channels_in),
            conv1x1(channels_in, half),
            nn.BatchNorm2d(half),
        )
        self.right = _branch(channels_in, half, stride=2)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels_in,H,W] to [B,channels,H/2,W/2], before the ReLU."""
        return self.shuffle(torch.cat([self.left(x), self.right(x)], dim=1))  # type: ignore[no-any-return]


def _parts(channels: int, widths: Sequence[int], units: Sequence[int]) -> Iterator[Part]:
    before, *rest = widths
    yield Part("stem", nn.Sequential(conv1x1(channels, before), nn.BatchNorm2d(before)), before, 1)
    for number, (width, count) in enumerate(zip(rest, units, strict=True), 1):
        row = [Down(before, width), *(Unit(width) for _ in range(count - 1))]
        yield Part(f"stage{number}", relu_between(row), width, 2**number)
        before = width
