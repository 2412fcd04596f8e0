"""ShuffleNet V1 with three groups for 32x32 pictures, as the distillation literature uses it.

Zhang, Zhou, Lin, Sun: ShuffleNet: an extremely efficient convolutional neural network for mobile
devices, CVPR 2018, arXiv:1707.01083, table 1, column g = 3: 240, 480 and 960 channels in stages of
4, 8 and 4 units. As in RepDistiller's models/ShuffleNetv1.py
(https://github.com/HobbitLong/RepDistiller@5237c1fd) a 1x1 convolution without pool is the stem, so
that 32 pixels are left to the stages, and a ReLU follows the depthwise convolution too, which the
paper's unit has not. Parameter counts equal RepDistiller's.
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
    "shufflenet_v1": {
        "summary": (
            "ShuffleNet V1, 3 groups, for 32x32 pictures: 3 stages of 4, 8 and 4 units, 240 to "
            "960 channels; 863 k parameters"
        ),
        "arguments": {"widths": [24, 240, 480, 960], "units": [4, 8, 4], "groups": 3},
        "smaller": None,
    },
}


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A ShuffleNet V1 with fresh weights: torch's default ones, as RepDistiller's has.

    Raises:
        Incompatible: the pictures are smaller than 5x5.
    """
    check_size(name, input_shape, halvings=3)
    return StagedNetwork(
        name,
        list(_parts(input_shape[0], **arguments)),
        pooled(),
        nn.Linear(arguments["widths"][-1], num_classes),
    )


class Unit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, and a shortcut. Gives the sum, or where it
    halves the map both side by side.

    Args:
        channels_in, channels: of its maps, the shortcut's channels included.
        groups: of its 1x1 convolutions. first_groups: of the first of them.
    """

    def __init__(
        self, channels_in: int, channels: int, *, stride: int, groups: int, first_groups: int
    ) -> None:
        super().__init__()
        own = channels - channels_in if stride == 2 else channels
        inner = own // 4
        self.conv1 = conv1x1(channels_in, inner, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.shuffle = ChannelShuffle(first_groups)
        self.conv2 = depthwise(inner, stride=stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.conv3 = conv1x1(inner, own, groups=groups)
        self.bn3 = nn.BatchNorm2d(own)
        self.pool = nn.AvgPool2d(kernel_size=3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels_in,H,W] to [B,channels,H/stride,W/stride], before the ReLU."""
        inner = self.shuffle(self.relu(self.bn1(self.conv1(x))))
        inner = self.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        return inner + x if self.pool is None else torch.cat([inner, self.pool(x)], dim=1)


def _parts(
    channels: int, *, widths: Sequence[int], units: Sequence[int], groups: int
) -> Iterator[Part]:
    before, *rest = widths
    yield Part("stem", nn.Sequential(conv1x1(channels, before), nn.BatchNorm2d(before)), before, 1)
    for number, (width, count) in enumerate(zip(rest, units, strict=True), 1):
        # the stem has too few channels to be cut into groups
        first = Unit(
            before, width, stride=2, groups=groups, first_groups=1 if number == 1 else groups
        )
        row = [
            first,
            *(
                Unit(width, width, stride=1, groups=groups, first_groups=groups)
                for _ in range(count - 1)
            ),
        ]
        yield Part(f"stage{number}", relu_between(row), width, 2**number, norm=row[-1].bn3)
        before = width
