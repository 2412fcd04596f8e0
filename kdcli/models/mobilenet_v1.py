"""MobileNet for photographs of 224x224: the student of the ImageNet tables that pair different
families.

Howard et al.: MobileNets: efficient convolutional neural networks for mobile vision applications,
arXiv:1704.04861, table 1: a 3x3 convolution, then 13 pairs of a depthwise 3x3 and a 1x1
convolution, each with batch norm and ReLU; 32 to 1024 channels, halved five times. The same layers
as mdistiller's models/imagenet/mobilenetv1.py
(https://github.com/megvii-research/mdistiller@e8c5bb33), 4,231,976 parameters for 1000 classes,
with torch's default weights as there. Its stages end where that code's features do: before the
resolution drops to an eighth, a sixteenth and a thirty-second, and at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from kdcli.models._checks import check_size
from kdcli.models._layers import conv1x1, conv3x3, depthwise, pooled
from kdcli.models._staged_network import Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "mobilenet_v1": {
        "summary": (
            "MobileNet for 224x224 pictures: 13 depthwise separable convolutions in 4 stages, "
            "128 to 1024 channels; 4.23 M parameters"
        ),
        "arguments": {
            "stages": [[64, 128, 128], [256, 256], [512, 512, 512, 512, 512, 512], [1024, 1024]]
        },
        "smaller": None,
        "input_shape": [3, 224, 224],
    },
}

_STEM = 32


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A MobileNet with fresh weights.

    Raises:
        Incompatible: the pictures are smaller than 17x17.
    """
    check_size(name, input_shape, halvings=5)
    parts = list(_parts(input_shape[0], **arguments))
    return StagedNetwork(name, parts, pooled(), nn.Linear(parts[-1].channels, num_classes))


def _separable(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
    """A depthwise and a pointwise convolution with their norms. The ReLU after it is the
    caller's.
    """
    first = [
        depthwise(channels_in, stride=stride),
        nn.BatchNorm2d(channels_in),
        nn.ReLU(inplace=True),
    ]
    return [*first, conv1x1(channels_in, channels), nn.BatchNorm2d(channels)]


def _parts(channels: int, *, stages: list[list[int]]) -> Iterator[Part]:
    yield Part(
        "stem", nn.Sequential(conv3x3(channels, _STEM, stride=2), nn.BatchNorm2d(_STEM)), _STEM, 2
    )
    before, stride = _STEM, 2
    for number, widths in enumerate(stages, 1):
        layers: list[nn.Module] = []
        for place, width in enumerate(widths):
            halves = width == 2 * before and before != _STEM  # the first pair widens at full size
            layers += [nn.ReLU(inplace=True)] if place else []
            layers += _separable(before, width, 2 if halves else 1)
            before, stride = width, stride * (2 if halves else 1)
        norm = layers[-1] if isinstance(layers[-1], nn.BatchNorm2d) else None
        yield Part(f"stage{number}", nn.Sequential(*layers), before, stride, norm=norm)
