"""Multilayer perceptrons, for vectors and for pictures as vectors.

With tanh, batch norm, residual connections and a normalised logit layer they are the networks that
"Understanding and Improving Knowledge Distillation" (Tang et al., arXiv:2002.03532) trains on
synthetic data: there logits are a learnt scale times the cosine between the features and each
class's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from kdcli.core.options import Options as ModelOptions
from kdcli.models._staged_network import Part, StagedNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {
        "summary": (
            "multilayer perceptron on flattened pictures or vectors; widths, activation, norm "
            "and logit layer to choose"
        ),
        "arguments": {
            "hidden": [128],
            "activation": "relu",
            "norm": "none",
            "residual": False,
            "dropout": 0.0,
            "normalised": False,
        },
        "smaller": None,
        "input_shape": [1, 28, 28],
    },
}


class Options(ModelOptions):
    """What may be changed of a perceptron; the variant's own value unless given."""

    hidden: tuple[PositiveInt, ...] | None = Field(
        None, min_length=1, description="Widths of the hidden layers; 128 unless given."
    )
    activation: Literal["relu", "tanh"] | None = Field(
        None, description="After each hidden layer; relu unless given."
    )
    norm: Literal["none", "batch"] | None = Field(
        None, description="Before each activation; none unless given."
    )
    residual: bool | None = Field(
        None,
        description="Add a layer's input to what its activation takes, where the widths agree.",
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout after each hidden layer; none unless given."
    )
    normalised: bool | None = Field(
        None,
        description="Logits are a learnt scale times the cosine of features and class weights.",
    )


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> StagedNetwork:
    """A perceptron with fresh weights. Taps: "stageN" after, and "stageN.pre" before, the
    activation of hidden layer N; all [B,D].
    """
    channels, height, width = input_shape
    chosen = dict(arguments)
    head = CosineHead if chosen.pop("normalised") else nn.Linear
    parts = list(_parts(channels * height * width, **chosen))
    return StagedNetwork(
        name, parts, nn.Dropout(chosen["dropout"]), head(parts[-1].channels, num_classes)
    )


class CosineHead(nn.Linear):
    """Logits as scale * cos(features, weights of the class): [B,D] to [B,K]. The scale is learnt
    and starts at 10.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.Linear's own name for it
        return self.scale * functional.linear(
            functional.normalize(input, dim=1), functional.normalize(self.weight, dim=1)
        )


class Layer(nn.Module):
    """A dense layer, its norm, and the shortcut around both: [B,features] to [B,width], before the
    activation.
    """

    def __init__(self, features: int, width: int, *, norm: str, residual: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width)
        self.norm = nn.BatchNorm1d(width) if norm == "batch" else nn.Identity()
        self.residual = residual and features == width

    def forward(self, x: Tensor) -> Tensor:
        """[B,features] to [B,width]."""
        inner: Tensor = self.norm(self.linear(x))
        return inner + x if self.residual else inner


def _parts(
    features: int,
    *,
    hidden: Sequence[int],
    activation: str,
    norm: str,
    residual: bool,
    dropout: float,
) -> Iterator[Part]:
    for number, width in enumerate(hidden, 1):
        first = nn.Flatten() if number == 1 else nn.Dropout(dropout)
        layer = Layer(features, width, norm=norm, residual=residual)
        yield Part(f"stage{number}", nn.Sequential(first, layer), width, None, activation)
        features = width
