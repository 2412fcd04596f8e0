"""ResNets for 32x32 pictures, as the distillation literature uses them.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2: three stages of basic blocks
on maps of 32, 16 and 8 pixels, depth 6n + 2. As in RepDistiller (Tian, Krishnan, Isola, ICLR 2020), a 1x1 convolution
with batch norm carries the shortcut where the shape changes, and the x4 nets have maps four times as wide. Parameter counts equal RepDistiller's.
Any picture size and number of channels will do: nothing but the head depends on the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdcli.models._chain import Chain, Part
from kdcli.models._checks import check_size

VARIANTS: dict[str, dict[str, Any]] = {
    "resnet8": {
        "summary": "ResNet-8 for 32x32 pictures: 3 stages of 1 block, 16 to 64 channels; 78 k parameters",
        "arguments": {"depth": 8, "widths": [16, 16, 32, 64]},
        "smaller": None,
    },
    "resnet14": {
        "summary": "ResNet-14 for 32x32 pictures: 3 stages of 2 blocks, 16 to 64 channels; 175 k parameters",
        "arguments": {"depth": 14, "widths": [16, 16, 32, 64]},
        "smaller": "resnet8",
    },
    "resnet20": {
        "summary": "ResNet-20 for 32x32 pictures: 3 stages of 3 blocks, 16 to 64 channels; 272 k parameters",
        "arguments": {"depth": 20, "widths": [16, 16, 32, 64]},
        "smaller": "resnet8",
    },
    "resnet32": {
        "summary": "ResNet-32 for 32x32 pictures: 3 stages of 5 blocks, 16 to 64 channels; 467 k parameters",
        "arguments": {"depth": 32, "widths": [16, 16, 32, 64]},
        "smaller": "resnet14",
    },
    "resnet44": {
        "summary": "ResNet-44 for 32x32 pictures: 3 stages of 7 blocks, 16 to 64 channels; 661 k parameters",
        "arguments": {"depth": 44, "widths": [16, 16, 32, 64]},
        "smaller": "resnet20",
    },
    "resnet56": {
        "summary": "ResNet-56 for 32x32 pictures: 3 stages of 9 blocks, 16 to 64 channels; 856 k parameters",
        "arguments": {"depth": 56, "widths": [16, 16, 32, 64]},
        "smaller": "resnet20",
    },
    "resnet110": {
        "summary": "ResNet-110 for 32x32 pictures: 3 stages of 18 blocks, 16 to 64 channels; 1.73 M parameters",
        "arguments": {"depth": 110, "widths": [16, 16, 32, 64]},
        "smaller": "resnet32",
    },
    "resnet8x4": {
        "summary": "ResNet-8, four times as wide: 3 stages of 1 block, 32 to 256 channels; 1.21 M parameters",
        "arguments": {"depth": 8, "widths": [32, 64, 128, 256]},
        "smaller": None,
    },
    "resnet32x4": {
        "summary": "ResNet-32, four times as wide: 3 stages of 5 blocks, 32 to 256 channels; 7.41 M parameters",
        "arguments": {"depth": 32, "widths": [32, 64, 128, 256]},
        "smaller": "resnet8x4",
    },
}


def build(name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]) -> Chain:
    """A ResNet with fresh weights.

    Raises:
        Incompatible: the pictures are smaller than 3x3.
    """
    check_size(name, input_shape, halvings=2)
    network = Chain(name, _parts(input_shape[0], **arguments), _pool(), nn.Linear(arguments["widths"][-1], num_classes))
    network.apply(_initialise)
    return network


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut. Gives their sum; the ReLU after it is the caller's."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels_in, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if stride == 1 and channels_in == channels else _projection(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels_in,H,W] to [B,channels,H/stride,W/stride], before the ReLU."""
        inner = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(inner)) + self.shortcut(x)  # type: ignore[no-any-return]


def _parts(channels: int, *, depth: int, widths: Sequence[int]) -> list[Part]:
    first, *rest = widths
    parts = [Part("stem", nn.Sequential(_conv(channels, first, 1), nn.BatchNorm2d(first)), first, 1)]
    for number, width in enumerate(rest, 1):
        blocks = _blocks(parts[-1].channels, width, count=(depth - 2) // 6, stride=1 if number == 1 else 2)
        # a ReLU between blocks, none after the last: the chain's own follows there
        row = [module for block in blocks for module in (block, nn.ReLU(inplace=True))][:-1]
        parts.append(Part(f"stage{number}", nn.Sequential(*row), width, 2 ** (number - 1), norm=blocks[-1].bn2))
    return parts


def _blocks(channels_in: int, channels: int, *, count: int, stride: int) -> list[Block]:
    return [Block(channels_in, channels, stride), *(Block(channels, channels, 1) for _ in range(count - 1))]


def _conv(channels_in: int, channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, kernel_size=3, stride=stride, padding=1, bias=False)


def _projection(channels_in: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels_in, channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(channels))


def _pool() -> nn.Module:
    # global, not 8x8: then digits of 8x8 and pictures of 28x28 fit too
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _initialise(module: nn.Module) -> None:
    # batch norms are 1 and 0 already; the linear head keeps torch's default, as RepDistiller's does
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
