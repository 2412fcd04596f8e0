"""VGG nets with batch norm for 32x32 pictures, as the distillation literature uses them.

Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, ICLR 2015,
arXiv:1409.1556, table 1, columns A, B, D and E: five blocks of 3x3 convolutions with 64, 128, 256,
512 and 512 channels, max-pools between. As in RepDistiller's models/vgg.py
(https://github.com/HobbitLong/RepDistiller@5237c1fd), each convolution (with bias) has a batch
norm, one linear layer follows a global average pool instead of three wide ones, and vgg8 has one
convolution a block. Parameter counts equal RepDistiller's.

The first block is the stem, the others are the stages. Between the last two there is a pool only if
the pictures are 64 pixels high or more: of 32 pixels 4 are left there already. Pools round up, so
that 28 pixels give 14, 7 and 4; RepDistiller's round down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from kdcli.models._checks import check_size
from kdcli.models._layers import he_normal, pooled, small_head
from kdcli.models._staged_network import Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "vgg8": {
        "summary": (
            "VGG-8 with batch norm for 32x32 pictures: 5 blocks of 1 convolution, 64 to 512 "
            "channels; 3.92 M parameters"
        ),
        "arguments": {"convs": [1, 1, 1, 1, 1]},
        "smaller": "mobilenet_v2",
    },
    "vgg11": {
        "summary": (
            "VGG-11 with batch norm for 32x32 pictures: 8 convolutions in 5 blocks, 64 to 512 "
            "channels; 9.23 M parameters"
        ),
        "arguments": {"convs": [1, 1, 2, 2, 2]},
        "smaller": "vgg8",
    },
    "vgg13": {
        "summary": (
            "VGG-13 with batch norm for 32x32 pictures: 10 convolutions in 5 blocks, 64 to 512 "
            "channels; 9.42 M parameters"
        ),
        "arguments": {"convs": [2, 2, 2, 2, 2]},
        "smaller": "vgg8",
    },
    "vgg16": {
        "summary": (
            "VGG-16 with batch norm for 32x32 pictures: 13 convolutions in 5 blocks, 64 to 512 "
            "channels; 14.7 M parameters"
        ),
        "arguments": {"convs": [2, 2, 3, 3, 3]},
        "smaller": "vgg8",
    },
    "vgg19": {
        "summary": (
            "VGG-19 with batch norm for 32x32 pictures: 16 convolutions in 5 blocks, 64 to 512 "
            "channels; 20.0 M parameters"
        ),
        "arguments": {"convs": [2, 2, 4, 4, 4]},
        "smaller": "vgg8",
    },
}

_WIDTHS = (64, 128, 256, 512, 512)
_LARGE = 64  # pixels: from here on the last two blocks have a pool between them


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A VGG net with fresh weights.

    Raises:
        Incompatible: the pictures are smaller than 5x5.
    """
    check_size(name, input_shape, halvings=3)
    large = min(input_shape[1:]) >= _LARGE
    network = StagedNetwork(
        name,
        _parts(input_shape[0], arguments["convs"], large=large),
        pooled(),
        small_head(_WIDTHS[-1], num_classes),
    )
    network.apply(he_normal)
    return network


def _parts(channels: int, convs: Sequence[int], *, large: bool) -> list[Part]:
    parts: list[Part] = []
    stride = 1
    for number, (width, count) in enumerate(zip(_WIDTHS, convs, strict=True)):
        layers: list[nn.Module] = []
        if 0 < number < len(_WIDTHS) - 1 or (number and large):
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True))
            stride *= 2
        for place in range(count):
            layers += [nn.ReLU(inplace=True)] if place else []
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.BatchNorm2d(width)]
            channels = width
        norm = layers[-1] if isinstance(layers[-1], nn.BatchNorm2d) else None
        parts.append(
            Part(
                f"stage{number}" if number else "stem",
                nn.Sequential(*layers),
                width,
                stride,
                norm=norm,
            )
        )
    return parts
