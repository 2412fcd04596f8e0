"""Layers that several families are made of. All of them take maps [B,C,H,W]."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


def conv1x1(channels_in: int, channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A pointwise convolution without bias: a batch norm follows."""
    return nn.Conv2d(channels_in, channels, kernel_size=1, stride=stride, groups=groups, bias=False)


def conv3x3(channels_in: int, channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps height and width, or halves them rounding up."""
    return nn.Conv2d(
        channels_in, channels, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False
    )


def depthwise(channels: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution of each channel by itself."""
    return conv3x3(channels, channels, stride=stride, groups=channels)


def shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    """The shortcut of a residual block: its input, through a 1x1 convolution and batch norm where
    the shape changes.
    """
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    return nn.Sequential(conv1x1(channels_in, channels, stride=stride), nn.BatchNorm2d(channels))


def relu_between(blocks: Iterable[nn.Module]) -> nn.Sequential:
    """Blocks in a row with a ReLU between two, none after the last: that of the staged network
    follows there.
    """
    return nn.Sequential(
        *[module for block in blocks for module in (block, nn.ReLU(inplace=True))][:-1]
    )


def pooled() -> nn.Module:
    """[B,C,H,W] to [B,C]. Global, not of a fixed size: then any picture size will do."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def he_normal(module: nn.Module) -> None:
    """For `Module.apply`: weights of convolutions are normal with variance 2 / (k k channels out),
    biases 0; norms are 1 and 0 already.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def small_head(features: int, num_classes: int) -> nn.Linear:
    """A linear head that starts with weights of standard deviation 0.01 and biases 0."""
    head = nn.Linear(features, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Gives their sum; the ReLU after it is the caller's."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut(channels_in, channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the sum."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels_in,H,W] to [B,channels,H/stride,W/stride], before the ReLU."""
        inner = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(inner)) + self.shortcut(x)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut; the first two have a quarter of the channels.
    The ReLU after it is the caller's.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        inner = channels // 4
        self.conv1 = conv1x1(channels_in, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride=stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.conv3 = conv1x1(inner, channels)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut(channels_in, channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the sum."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels_in,H,W] to [B,channels,H/stride,W/stride], before the ReLU."""
        inner = self.relu(self.bn1(self.conv1(x)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        return self.bn3(self.conv3(inner)) + self.shortcut(x)  # type: ignore[no-any-return]


class ChannelShuffle(nn.Module):
    """Reorders channels so that each of the next convolution's groups sees channels of all groups
    of the one before.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] to the same: channel g * (C / groups) + c goes to c * groups + g."""
        batch, channels, height, width = x.shape
        return (
            x.reshape(batch, self.groups, -1, height, width)
            .transpose(1, 2)
            .reshape(batch, channels, height, width)
        )
