"""Wide ResNets for 32x32 pictures, as the distillation literature uses them.

Zagoruyko, Komodakis: Wide residual networks, BMVC 2016, arXiv:1605.07146, section 2 and table 1:
three stages of pre-activation blocks (batch norm, ReLU, 3x3 convolution, twice) on maps of 32, 16
and 8 pixels, depth 6n + 4, 16k to 64k channels; a batch norm and a ReLU before the pool. Parameter
counts equal those of RepDistiller's models/wrn.py
(https://github.com/HobbitLong/RepDistiller@5237c1fd). Without dropout, as there. Any picture size
and number of channels will do.

Taps. What leaves a block is a bare sum, which the batch norm of the next stage's first block (after
the last stage: the network's last one) and a ReLU turn into what is read further on. So
"stageN.pre" is the sum after that batch norm, "stageN" the map after its ReLU, and `norm_at` gives
that batch norm. Thus the margins of overhaul distillation are exact here, which they are not where
a shortcut is added after the norm. "stem" is the first convolution's output, without norm or
activation, because a first block of equal width adds to it. Differs from RepDistiller: its list of
activated features holds the bare sums, for want of an activation inside the stage; its list of
features before activation is ours. No weight is elsewhere for it: only the norm is called one
module earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdcli.models._checks import check_size
from kdcli.models._layers import conv1x1, conv3x3, he_normal, pooled
from kdcli.models._staged_network import Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "wrn_16_1": {
        "summary": (
            "Wide ResNet-16-1 for 32x32 pictures: 3 stages of 2 blocks, 16 to 64 channels; 175 k "
            "parameters"
        ),
        "arguments": {"depth": 16, "width": 1},
        "smaller": "resnet8",
    },
    "wrn_16_2": {
        "summary": (
            "Wide ResNet-16-2 for 32x32 pictures: 3 stages of 2 blocks, 32 to 128 channels; 692 "
            "k parameters"
        ),
        "arguments": {"depth": 16, "width": 2},
        "smaller": "wrn_16_1",
    },
    "wrn_40_1": {
        "summary": (
            "Wide ResNet-40-1 for 32x32 pictures: 3 stages of 6 blocks, 16 to 64 channels; 564 k "
            "parameters"
        ),
        "arguments": {"depth": 40, "width": 1},
        "smaller": "wrn_16_1",
    },
    "wrn_40_2": {
        "summary": (
            "Wide ResNet-40-2 for 32x32 pictures: 3 stages of 6 blocks, 32 to 128 channels; 2.24 "
            "M parameters"
        ),
        "arguments": {"depth": 40, "width": 2},
        "smaller": "wrn_16_2",
    },
}


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A Wide ResNet with fresh weights.

    Raises:
        Incompatible: the pictures are smaller than 3x3.
    """
    check_size(name, input_shape, halvings=2)
    head = nn.Linear(64 * arguments["width"], num_classes)
    nn.init.zeros_(head.bias)
    network = StagedNetwork(name, _parts(input_shape[0], **arguments), pooled(), head)
    network.apply(he_normal)
    return network


class Block(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, and a shortcut. Gives the bare sum.

    Args:
        channels_in, channels, stride: of its maps.
        activated: its input went through the first norm and ReLU already.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int = 1, *, activated: bool = False
    ) -> None:
        super().__init__()
        self.before = (
            nn.Identity()
            if activated
            else nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True))
        )
        self.conv1 = conv3x3(channels_in, channels, stride=stride)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)
        self.shortcut = (
            None if channels_in == channels else conv1x1(channels_in, channels, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels_in,H,W] to [B,channels,H/stride,W/stride]."""
        active = self.before(x)
        inner: Tensor = self.conv2(self.relu(self.bn(self.conv1(active))))
        # where the width changes, the shortcut starts after the activation
        return inner + (x if self.shortcut is None else self.shortcut(active))


def _parts(channels: int, *, depth: int, width: int) -> list[Part]:
    parts = [Part("stem", conv3x3(channels, 16), 16, 1, activation="none")]
    for number, base in enumerate((16, 32, 64), 1):
        before, after, first = parts[-1].channels, base * width, number == 1
        blocks = [
            Block(before, after, 1 if first else 2, activated=not first),
            *(Block(after, after) for _ in range((depth - 4) // 6 - 1)),
        ]
        norm = nn.BatchNorm2d(after)
        parts.append(
            Part(
                f"stage{number}", nn.Sequential(*blocks, norm), after, 2 ** (number - 1), norm=norm
            )
        )
    return parts
