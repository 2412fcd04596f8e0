"""ResNets for 32x32 pictures, as the distillation literature uses them.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2: three
stages of basic blocks on maps of 32, 16 and 8 pixels, depth 6n + 2. As in RepDistiller (Tian,
Krishnan, Isola, ICLR 2020), a 1x1 convolution with batch norm carries the shortcut where the shape
changes, and the x4 nets have maps four times as wide. Parameter counts equal RepDistiller's. Any
picture size and number of channels will do: nothing but the head depends on the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from kdcli.models._checks import check_size
from kdcli.models._layers import BasicBlock, conv3x3, he_normal, pooled, relu_between
from kdcli.models._staged_network import Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "resnet8": {
        "summary": (
            "ResNet-8 for 32x32 pictures: 3 stages of 1 block, 16 to 64 channels; 78 k parameters"
        ),
        "arguments": {"depth": 8, "widths": [16, 16, 32, 64]},
        "smaller": None,
    },
    "resnet14": {
        "summary": (
            "ResNet-14 for 32x32 pictures: 3 stages of 2 blocks, 16 to 64 channels; 175 k "
            "parameters"
        ),
        "arguments": {"depth": 14, "widths": [16, 16, 32, 64]},
        "smaller": "resnet8",
    },
    "resnet20": {
        "summary": (
            "ResNet-20 for 32x32 pictures: 3 stages of 3 blocks, 16 to 64 channels; 272 k "
            "parameters"
        ),
        "arguments": {"depth": 20, "widths": [16, 16, 32, 64]},
        "smaller": "resnet8",
    },
    "resnet32": {
        "summary": (
            "ResNet-32 for 32x32 pictures: 3 stages of 5 blocks, 16 to 64 channels; 467 k "
            "parameters"
        ),
        "arguments": {"depth": 32, "widths": [16, 16, 32, 64]},
        "smaller": "resnet14",
    },
    "resnet44": {
        "summary": (
            "ResNet-44 for 32x32 pictures: 3 stages of 7 blocks, 16 to 64 channels; 661 k "
            "parameters"
        ),
        "arguments": {"depth": 44, "widths": [16, 16, 32, 64]},
        "smaller": "resnet20",
    },
    "resnet56": {
        "summary": (
            "ResNet-56 for 32x32 pictures: 3 stages of 9 blocks, 16 to 64 channels; 856 k "
            "parameters"
        ),
        "arguments": {"depth": 56, "widths": [16, 16, 32, 64]},
        "smaller": "resnet20",
    },
    "resnet110": {
        "summary": (
            "ResNet-110 for 32x32 pictures: 3 stages of 18 blocks, 16 to 64 channels; 1.73 M "
            "parameters"
        ),
        "arguments": {"depth": 110, "widths": [16, 16, 32, 64]},
        "smaller": "resnet32",
    },
    "resnet8x4": {
        "summary": (
            "ResNet-8, four times as wide: 3 stages of 1 block, 32 to 256 channels; 1.21 M "
            "parameters"
        ),
        "arguments": {"depth": 8, "widths": [32, 64, 128, 256]},
        "smaller": None,
    },
    "resnet32x4": {
        "summary": (
            "ResNet-32, four times as wide: 3 stages of 5 blocks, 32 to 256 channels; 7.41 M "
            "parameters"
        ),
        "arguments": {"depth": 32, "widths": [32, 64, 128, 256]},
        "smaller": "resnet8x4",
    },
}


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A ResNet with fresh weights.

    Raises:
        Incompatible: the pictures are smaller than 3x3.
    """
    check_size(name, input_shape, halvings=2)
    network = StagedNetwork(
        name,
        _parts(input_shape[0], **arguments),
        pooled(),
        nn.Linear(arguments["widths"][-1], num_classes),
    )
    network.apply(he_normal)  # the head keeps torch's default, as RepDistiller's does
    return network


def _parts(channels: int, *, depth: int, widths: Sequence[int]) -> list[Part]:
    first, *rest = widths
    parts = [Part("stem", nn.Sequential(conv3x3(channels, first), nn.BatchNorm2d(first)), first, 1)]
    for number, width in enumerate(rest, 1):
        before, stride = parts[-1].channels, 1 if number == 1 else 2
        blocks = [
            BasicBlock(before, width, stride),
            *(BasicBlock(width, width) for _ in range((depth - 2) // 6 - 1)),
        ]
        parts.append(
            Part(
                f"stage{number}",
                relu_between(blocks),
                width,
                2 ** (number - 1),
                norm=blocks[-1].last_norm,
            )
        )
    return parts
