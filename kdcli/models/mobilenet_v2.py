"""MobileNetV2 at half width for 32x32 pictures, as the distillation literature uses it.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: inverted residuals and linear bottlenecks, CVPR
2018, arXiv:1801.04381, table 2. As in RepDistiller's models/mobilenetv2.py
(https://github.com/HobbitLong/RepDistiller@5237c1fd, "mobile_half": expansion T = 6, width w = 0.5)
the 24 channels' first block has stride 1, so that the net halves its input four times instead of
five; ReLU stands for ReLU6, and the first block too begins with a 1x1 convolution, though it
expands nothing. Parameter counts equal RepDistiller's.

A stage ends where the resolution is about to drop, in a linear bottleneck: no activation follows,
so "stageN.pre" is "stageN", and `norm_at` gives the last bottleneck's batch norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from kdcli.models._checks import check_size
from kdcli.models._layers import conv1x1, conv3x3, depthwise, he_normal, pooled, small_head
from kdcli.models._staged_network import Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {
        "summary": (
            "MobileNetV2 at half width for 32x32 pictures: 17 inverted residuals in 4 stages, 12 "
            "to 160 channels; 698 k parameters"
        ),
        "arguments": {"expansion": 6, "width": 0.5},
        "smaller": None,
    },
}

_LAST = 1280  # channels before the head
# of each stage the rows of the paper's table 2: does it expand, channels at width 1, blocks, stride
# of the first
_STAGES = (
    ((False, 16, 1, 1), (True, 24, 2, 1)),
    ((True, 32, 3, 2),),
    ((True, 64, 4, 2), (True, 96, 3, 1)),
    ((True, 160, 3, 2), (True, 320, 1, 1)),
)


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A MobileNetV2 with fresh weights.

    Raises:
        Incompatible: the pictures are smaller than 9x9.
    """
    check_size(name, input_shape, halvings=4)
    parts = list(_parts(input_shape[0], **arguments))
    last = nn.Sequential(
        conv1x1(parts[-1].channels, _LAST), nn.BatchNorm2d(_LAST), nn.ReLU(inplace=True)
    )
    network = StagedNetwork(
        name, parts, nn.Sequential(last, pooled()), small_head(_LAST, num_classes)
    )
    network.apply(he_normal)
    return network


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project; added to the input where the shape stays.
    Nothing follows the projection.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.conv1 = conv1x1(channels_in, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = depthwise(inner, stride=stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.conv3 = conv1x1(inner, channels)
        self.bn3 = nn.BatchNorm2d(channels)
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels_in,H,W] to [B,channels,H/stride,W/stride]."""
        inner = self.relu(self.bn1(self.conv1(x)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        projected: Tensor = self.bn3(self.conv3(inner))
        return x + projected if self.adds else projected


def _parts(channels: int, *, expansion: int, width: float) -> Iterator[Part]:
    stride, before = 2, int(32 * width)
    yield Part(
        "stem",
        nn.Sequential(conv3x3(channels, before, stride=2), nn.BatchNorm2d(before)),
        before,
        stride,
    )
    for number, rows in enumerate(_STAGES, 1):
        blocks: list[InvertedResidual] = []
        for expands, base, count, step in rows:
            for place in range(count):
                blocks.append(
                    InvertedResidual(
                        before, int(base * width), 1 if place else step, expansion if expands else 1
                    )
                )
                before = int(base * width)
            stride *= step
        yield Part(f"stage{number}", nn.Sequential(*blocks), before, stride, "none", blocks[-1].bn3)
