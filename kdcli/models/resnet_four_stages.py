"""ResNet-18, 34 and 50 for 32x32 pictures, as the distillation literature uses them.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, CVPR 2016, arXiv:1512.03385,
table 1: four stages of basic or bottleneck blocks. As in RepDistiller's models/resnetv2.py
(https://github.com/HobbitLong/RepDistiller@5237c1fd) a 3x3 convolution of stride 1 without pool is
the stem, so that the stages see 32, 16, 8 and 4 pixels. Parameter counts equal RepDistiller's. For
large pictures there are torchvision/resnet18 and so on; those of three stages, resnet8 to
resnet110, are a family of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from kdcli.models._checks import check_size
from kdcli.models._layers import BasicBlock, Bottleneck, conv3x3, he_normal, pooled, relu_between
from kdcli.models._staged_network import Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": {
        "summary": (
            "ResNet-18 with a stem for 32x32 pictures: 4 stages of 2 blocks, 64 to 512 channels; "
            "11.2 M parameters"
        ),
        "arguments": {"blocks": [2, 2, 2, 2], "bottleneck": False},
        "smaller": "resnet8x4",
    },
    "resnet34": {
        "summary": (
            "ResNet-34 with a stem for 32x32 pictures: 4 stages of 3 to 6 blocks, 64 to 512 "
            "channels; 21.3 M parameters"
        ),
        "arguments": {"blocks": [3, 4, 6, 3], "bottleneck": False},
        "smaller": "resnet18",
    },
    "resnet50": {
        "summary": (
            "ResNet-50 with a stem for 32x32 pictures: 4 stages of 3 to 6 bottlenecks, 256 to "
            "2048 channels; 23.5 M parameters"
        ),
        "arguments": {"blocks": [3, 4, 6, 3], "bottleneck": True},
        "smaller": "resnet18",
    },
}


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A ResNet with fresh weights.

    Raises:
        Incompatible: the pictures are smaller than 5x5.
    """
    check_size(name, input_shape, halvings=3)
    parts = list(_parts(input_shape[0], **arguments))
    network = StagedNetwork(name, parts, pooled(), nn.Linear(parts[-1].channels, num_classes))
    network.apply(he_normal)
    return network


def _parts(channels: int, *, blocks: Sequence[int], bottleneck: bool) -> Iterator[Part]:
    yield Part("stem", nn.Sequential(conv3x3(channels, 64), nn.BatchNorm2d(64)), 64, 1)
    kind = Bottleneck if bottleneck else BasicBlock
    before = 64
    for number, (base, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True), 1):
        width = base * (4 if bottleneck else 1)
        row = [
            kind(before, width, 1 if number == 1 else 2),
            *(kind(width, width) for _ in range(count - 1)),
        ]
        yield Part(
            f"stage{number}", relu_between(row), width, 2 ** (number - 1), norm=row[-1].last_norm
        )
        before = width
