"""The networks of Table 7 of "Controlling the Quality of Distillation in Response-Based Network
Compression", and the quickstart's.

Vats and Crandall, arXiv:2112.10047. The table gives numbers of layers and total parameters only.
The widths here are those that give the printed totals exactly (for the table's own datasets). Of
mnist-small and mnist-student the totals are those of the teacher and student of the Keras example
"Knowledge Distillation", so they have its structure: LeakyReLU 0.2, a 2x2 max-pool of stride 1
between the convolutions, no activation after the last convolution.

What the table leaves open is settled alike for the others: 3x3 convolutions with padding 1 that
halve by their stride (28, 14, 7, 4, 2: rounded up), LeakyReLU 0.2 after each, and, in the large
nets, dropout after each convolution stage and each hidden dense layer. The CIFAR-10 nets with one
convolution more than halvings keep the first at full size. "linear" is the table's baseline
student.

cifar10-large is a stand-in: no plausible net of 8 convolutions and 3 dense layers has the printed
26,902,442 parameters.

cnn-large, cnn-medium and cnn-small are not the paper's: small nets with batch norm for small
pictures such as digits, with all the taps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdcli.core.options import Options as ModelOptions
from kdcli.models._checks import check_size
from kdcli.models._staged_network import LEAK, Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "cnn-large": {
        "summary": (
            "quickstart teacher: 4 convolutions with batch norm, 32 to 128 channels, 1 hidden "
            "layer; 638 k parameters on digits"
        ),
        "arguments": {
            "stem": 32,
            "convs": [[32], [64], [128]],
            "strides": [2, 1, 2, 1],
            "hidden": [1024],
            "norm": True,
        },
        "smaller": "cnn-small",
        "input_shape": [1, 8, 8],
    },
    "cnn-medium": {
        "summary": (
            "between the quickstart's two: cnn-large without its hidden layer, for a teacher "
            "assistant; 108 k parameters on digits"
        ),
        "arguments": {
            "stem": 32,
            "convs": [[32], [64], [128]],
            "strides": [2, 1, 2, 1],
            "norm": True,
        },
        "smaller": "cnn-small",
        "input_shape": [1, 8, 8],
    },
    "cnn-small": {
        "summary": (
            "quickstart student: 4 convolutions with batch norm, 16 to 40 channels; 20 k "
            "parameters on digits"
        ),
        "arguments": {
            "stem": 16,
            "convs": [[16], [32], [40]],
            "strides": [2, 1, 2, 1],
            "norm": True,
        },
        "smaller": None,
        "input_shape": [1, 8, 8],
    },
    "mnist-large": {
        "summary": (
            "Table 7, MNIST large teacher: 3 convolutions, 3 dense layers, dropout; 2,560,906 "
            "parameters"
        ),
        "arguments": {
            "convs": [[128], [256], [512]],
            "strides": [2, 2, 2],
            "hidden": [128, 256],
            "conv_dropout": 0.25,
            "dense_dropout": 0.5,
        },
        "smaller": "mnist-student",
        "input_shape": [1, 28, 28],
    },
    "mnist-small": {
        "summary": (
            "Table 7, MNIST small teacher, the Keras example's: 2 convolutions, 1 dense layer; "
            "1,433,610 parameters"
        ),
        "arguments": {"convs": [[256], [512]], "strides": [2, 2], "keras": True},
        "smaller": "mnist-student",
        "input_shape": [1, 28, 28],
    },
    "mnist-student": {
        "summary": (
            "Table 7, MNIST student, the Keras example's: 2 convolutions, 1 dense layer; 20,490 "
            "parameters"
        ),
        "arguments": {"convs": [[16], [32]], "strides": [2, 2], "keras": True},
        "smaller": None,
        "input_shape": [1, 28, 28],
    },
    "fashion-mnist-large": {
        "summary": (
            "Table 7, Fashion-MNIST large teacher: 4 convolutions, 4 dense layers, dropout; "
            "2,339,850 parameters"
        ),
        "arguments": {
            "convs": [[64], [128], [256], [512]],
            "strides": [2, 2, 2, 2],
            "hidden": [256, 512, 256],
            "conv_dropout": 0.25,
            "dense_dropout": 0.5,
        },
        "smaller": "fashion-mnist-student",
        "input_shape": [1, 28, 28],
    },
    "fashion-mnist-small": {
        "summary": (
            "Table 7, Fashion-MNIST small teacher: 3 convolutions, 1 dense layer; 1,558,538 "
            "parameters"
        ),
        "arguments": {"convs": [[128], [256], [512]], "strides": [2, 2, 2]},
        "smaller": "fashion-mnist-student",
        "input_shape": [1, 28, 28],
    },
    "fashion-mnist-student": {
        "summary": (
            "Table 7, Fashion-MNIST student: 2 convolutions, 1 dense layer; 50,186 parameters"
        ),
        "arguments": {"convs": [[32], [64]], "strides": [2, 2]},
        "smaller": None,
        "input_shape": [1, 28, 28],
    },
    "cifar10-large": {
        "summary": (
            "stand-in for Table 7's CIFAR-10 large teacher: 8 convolutions with batch norm, 3 "
            "dense layers, dropout; 23.6 M parameters"
        ),
        "arguments": {
            "convs": [[64, 64], [128, 128], [256, 256], [512, 512]],
            "strides": [1, 2, 2, 2],
            "hidden": [2048, 1024],
            "norm": True,
            "conv_dropout": 0.25,
            "dense_dropout": 0.5,
        },
        "smaller": "cifar10-student",
    },
    "cifar10-small": {
        "summary": (
            "Table 7, CIFAR-10 small teacher: 3 convolutions, 2 dense layers; 5,674,634 parameters"
        ),
        "arguments": {"convs": [[128], [256], [512]], "strides": [1, 2, 2], "hidden": [128]},
        "smaller": "cifar10-student",
    },
    "cifar10-student": {
        "summary": "Table 7, CIFAR-10 student: 3 convolutions, 1 dense layer; 534,666 parameters",
        "arguments": {"convs": [[64], [128], [256]], "strides": [1, 2, 2]},
        "smaller": None,
    },
    "linear": {
        "summary": (
            "Table 7, baseline student: one dense layer on the pixels; 7,850 parameters on MNIST"
        ),
        "arguments": {},
        "smaller": None,
        "input_shape": [1, 28, 28],
    },
}


class Options(ModelOptions):
    """What may be changed of these networks; the variant's own value unless given."""

    conv_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Dropout after each convolution stage; 0.25 in the large nets.",
    )
    dense_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Dropout after each hidden dense layer; 0.5 in the large nets.",
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """The structure of one network: the keys of its `arguments`.

    stem: channels of a convolution before the first stage; None for no stem. convs: channels of
    each convolution, stage by stage.
    strides: of the first convolution of the stem, if there is one, and of each stage. hidden:
    widths of the hidden dense layers.
    norm: batch norm after each convolution. keras: the Keras example's pools, and no last
    activation.
    """

    stem: int | None = None
    convs: Sequence[Sequence[int]] = ()
    strides: Sequence[int] = ()
    hidden: Sequence[int] = ()
    norm: bool = False
    keras: bool = False
    conv_dropout: float = 0.0
    dense_dropout: float = 0.0

    def rows(self) -> Iterator[tuple[str, Sequence[int], int]]:
        """Name, channels of the convolutions, and stride, of the stem and each stage."""
        names = [f"stage{number}" for number in range(1, len(self.convs) + 1)]
        convs = list(self.convs)
        if self.stem is not None:
            names, convs = ["stem", *names], [[self.stem], *convs]
        return zip(names, convs, self.strides, strict=True)


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A network of this family with fresh weights.

    Raises:
        Incompatible: the pictures are too small for the strides.
    """
    layout = Layout(**arguments)
    check_size(name, input_shape, halvings=sum(stride == 2 for stride in layout.strides))
    parts = list(_parts(layout, input_shape[0]))
    neck, features = _neck(layout, _flat(parts, input_shape))
    return StagedNetwork(name, parts, neck, nn.Linear(features, num_classes))


class SamePool(nn.Module):
    """2x2 max-pool of stride 1 that keeps height and width: Keras pads below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] to [B,C,H,W]."""
        return functional.max_pool2d(x, kernel_size=2, stride=1, padding=1)[:, :, 1:, 1:]


def _parts(layout: Layout, channels: int) -> Iterator[Part]:
    total = 1
    last = len(layout.strides) - 1
    for number, (name, widths, stride) in enumerate(layout.rows()):
        between = (
            [*_dropout(layout.conv_dropout), *([SamePool()] if layout.keras else [])]
            if number
            else []
        )
        convs = list(_convs(channels, widths, stride, norm=layout.norm))
        channels, total = widths[-1], total * stride
        activation = "none" if layout.keras and number == last else "leaky_relu"
        norm = convs[-1] if isinstance(convs[-1], nn.BatchNorm2d) else None
        yield Part(name, nn.Sequential(*between, *convs), channels, total, activation, norm)


def _convs(channels: int, widths: Sequence[int], stride: int, *, norm: bool) -> Iterator[nn.Module]:
    for number, width in enumerate(widths):
        if number:
            yield nn.LeakyReLU(LEAK, inplace=True)
        yield nn.Conv2d(channels, width, kernel_size=3, stride=1 if number else stride, padding=1)
        if norm:
            yield nn.BatchNorm2d(width)
        channels = width


def _dropout(rate: float) -> list[nn.Module]:
    return [nn.Dropout(rate)] if rate else []


def _flat(parts: Sequence[Part], input_shape: tuple[int, int, int]) -> int:
    """Length of the last map as a vector. Halvings round up, and so does a division by all of them
    at once.
    """
    channels, height, width = input_shape
    if not parts:
        return channels * height * width
    stride = parts[-1].stride or 1
    return parts[-1].channels * -(-height // stride) * -(-width // stride)


def _neck(layout: Layout, features: int) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = [*_dropout(layout.conv_dropout), nn.Flatten()]
    for width in layout.hidden:
        layers += [
            nn.Linear(features, width),
            nn.LeakyReLU(LEAK, inplace=True),
            *_dropout(layout.dense_dropout),
        ]
        features = width
    return nn.Sequential(*layers), features
