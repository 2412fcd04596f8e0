"""LSTM language models: AWD-LSTM, and small ones without its regularisation.

Paper: S. Merity, N. S. Keskar, R. Socher, Regularizing and optimizing LSTM language models,
arXiv:1708.02182. Reference code: https://github.com/salesforce/awd-lstm-lm@32fcb42 model.py,
weight_drop.py, locked_dropout.py, embed_regularize.py, main.py.

Words are embedded by the rows of the last layer's own weights (tied weights), and go through LSTMs
of `hidden` units, the last one as wide as the embedding. In training

- embedding dropout leaves whole words out: one draw a word of the vocabulary and window;
- locked dropout drops the same units at all places of a window: of the embedded words, between the
  LSTMs, and before the last layer;
- weight-drop leaves out recurrent weights, the same ones at all places of a window;
- ar times the mean square of what the last layer sees, and tar times the mean square of how the
  last LSTM's output changes from place to place, are added to the loss.

All of it is drawn anew for each minibatch as a function of the recipe's seed and the position in
training. What is remembered goes on from window to window (kdcli.core.carried), without gradient.

Differs from the paper's code: weights are always tied; LSTMs compute in float32 whatever the
recipe's precision; a network in a chain of assistants has the penalties of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdcli.core.carried import remember, remembered
from kdcli.core.network import Network
from kdcli.core.options import Options as ModelOptions
from kdcli.core.penalties import penalise
from kdcli.core.types import Output, Tap
from kdcli.models._checks import check_taps

# dropouts of the variants named awd_lstm are those of the reference code for Penn Treebank; the
# student's are those that arXiv:2002.03532 gives in section 7.2
VARIANTS: dict[str, dict[str, Any]] = {
    "awd_lstm": {
        "summary": "AWD-LSTM of three layers, 24.2 M parameters for 10,000 words",
        "task": "language-modelling",
        "arguments": {
            "embedding": 400,
            "hidden": 1150,
            "layers": 3,
            "dropout": 0.4,
            "dropout_hidden": 0.25,
            "dropout_input": 0.4,
            "dropout_embedding": 0.1,
            "weight_drop": 0.5,
            "ar": 2.0,
            "tar": 1.0,
        },
        "smaller": "awd_lstm_600",
        "input_shape": [1, 1, 1],
    },
    "awd_lstm_600": {
        "summary": "AWD-LSTM of three narrower layers, 9.1 M parameters for 10,000 words",
        "task": "language-modelling",
        "arguments": {
            "embedding": 300,
            "hidden": 600,
            "layers": 3,
            "dropout": 0.4,
            "dropout_hidden": 0.225,
            "dropout_input": 0.4,
            "dropout_embedding": 0.1,
            "weight_drop": 0.5,
            "ar": 2.0,
            "tar": 1.0,
        },
        "smaller": "lstm_large",
        "input_shape": [1, 1, 1],
    },
    "lstm_large": {
        "summary": "LSTM of 256 units, for the text that comes with Python and a CPU",
        "task": "language-modelling",
        "arguments": {
            "embedding": 128,
            "hidden": 256,
            "layers": 2,
            "dropout": 0.1,
            "dropout_hidden": 0.0,
            "dropout_input": 0.1,
            "dropout_embedding": 0.0,
            "weight_drop": 0.0,
            "ar": 0.0,
            "tar": 0.0,
        },
        "smaller": "lstm_small",
        "input_shape": [1, 1, 1],
    },
    "lstm_small": {
        "summary": "LSTM of 64 units",
        "task": "language-modelling",
        "arguments": {
            "embedding": 64,
            "hidden": 64,
            "layers": 1,
            "dropout": 0.0,
            "dropout_hidden": 0.0,
            "dropout_input": 0.0,
            "dropout_embedding": 0.0,
            "weight_drop": 0.0,
            "ar": 0.0,
            "tar": 0.0,
        },
        "smaller": None,
        "input_shape": [1, 1, 1],
    },
}


class Options(ModelOptions):
    """What may be changed of an LSTM; the variant's own value unless given."""

    embedding: int | None = Field(None, ge=1, le=8192, description="Width of the embedded words.")
    hidden: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Units of each LSTM but the last, which has the embedding's.",
    )
    layers: int | None = Field(None, ge=1, le=16, description="LSTMs one after another.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Locked, before the last layer.")
    dropout_hidden: float | None = Field(None, ge=0, lt=1, description="Locked, between LSTMs.")
    dropout_input: float | None = Field(
        None, ge=0, lt=1, description="Locked, of the embedded words."
    )
    dropout_embedding: float | None = Field(
        None, ge=0, lt=1, description="Of whole words of the vocabulary."
    )
    weight_drop: float | None = Field(
        None, ge=0, lt=1, description="Of recurrent weights (DropConnect)."
    )
    ar: float | None = Field(
        None, ge=0, description="Weight of the mean square activation before the last layer."
    )
    tar: float | None = Field(
        None, ge=0, description="Weight of its mean square change from token to token."
    )


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> LanguageModel:
    """An LSTM language model with fresh weights. Tap: "pooled", [B*L,D], what feeds the last layer.

    Raises:
        Incompatible: the input is no token.
    """
    if tuple(input_shape) != (1, 1, 1):
        from kdcli.errors import Incompatible

        raise Incompatible(
            f"{name} reads words of a text, and these are pictures of "
            f"{'x'.join(map(str, input_shape))}",
            hint="-d text, or a network of pictures: kd models",
        )
    return LanguageModel(name, num_classes, **arguments)


class LanguageModel(Network):
    """Words of a text to logits of the word after each.

    Args:
        name: for messages. num_classes: words of the vocabulary. Others: as Options.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        embedding: int,
        hidden: int,
        layers: int,
        dropout: float,
        dropout_hidden: float,
        dropout_input: float,
        dropout_embedding: float,
        weight_drop: float,
        ar: float,
        tar: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.taps = {"pooled": Tap(embedding, None)}
        widths = [embedding, *[hidden] * (layers - 1), embedding]
        self.lstms = nn.ModuleList(
            DroppedLSTM(inner, outer, weight_drop) for inner, outer in pairwise(widths)
        )
        self.head = nn.Linear(embedding, num_classes)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)
        self.embedding = TiedEmbedding(self.head)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))  # of the embedding: see logits_divided
        self._dropout, self._dropout_hidden = dropout, dropout_hidden
        self._dropout_input, self._dropout_embedding = dropout_input, dropout_embedding
        self._ar, self._tar = ar, tar

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        """Logits [B*L,K], window by window, of tokens x [B,1,1,L]."""
        check_taps(self.name, taps, self.taps)
        tokens = x.flatten(1).long()  # [B,L]; a dry run gives zeros of float
        # shapes are computed on a device that has no precision
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            raw, dropped = self._read(tokens)
        if self.training:
            self._penalise(raw, dropped)
        pooled = dropped.flatten(0, 1)  # [B*L,D]
        return Output(self.classify(pooled), {"pooled": pooled} if taps else {})

    def _read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the last LSTM gives, [B,L,D], and that after its dropout."""
        seen = self._locked(self._embedded(tokens), self._dropout_input)
        before = remembered(self)
        after: list[Tensor] = []
        for number, lstm in enumerate(self.lstms):
            if number:
                seen = self._locked(seen, self._dropout_hidden)
            own = None if before is None else before[2 * number : 2 * number + 2]
            seen, states = lstm(seen, own)
            after += states
        remember(self, tuple(after))
        return seen, self._locked(seen, self._dropout)

    def _embedded(self, tokens: Tensor) -> Tensor:
        weight = self.embedding.weight
        if self.training and self._dropout_embedding:
            kept = functional.dropout(weight.new_ones(len(weight), 1), self._dropout_embedding)
            weight = weight * kept
        return functional.embedding(tokens, weight) * self.scale

    def _locked(self, x: Tensor, rate: float) -> Tensor:
        """Dropout of the same units [B,1,D] at every place of x [B,L,D]."""
        if not self.training or not rate:
            return x
        return x * functional.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), rate)

    def _penalise(self, raw: Tensor, dropped: Tensor) -> None:
        if self._ar:
            penalise("ar", self._ar * dropped.square().mean())
        if self._tar and raw.shape[1] > 1:
            penalise("tar", self._tar * (raw[:, 1:] - raw[:, :-1]).square().mean())

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        """The embedding, whose weights are the head's too, and all LSTMs."""
        check_taps(self.name, (upto,), self.taps)
        return (self.embedding, *self.lstms)

    def norm_at(self, tap: str) -> None:
        """None: there are no batch norms."""
        check_taps(self.name, (tap,), self.taps)

    def logits_divided(self, divisor: float) -> None:
        """Embeds words as before: by the last layer's weights, times what these were divided by."""
        self.scale *= divisor


class TiedEmbedding(nn.Module):
    """The weights [K,D] of a linear layer, as those that words are embedded by. A checkpoint holds
    them once, as the layer's.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight

    def _save_to_state_dict(self, *_: Any) -> None:
        """Nothing: the layer saves it."""

    def _load_from_state_dict(self, *_: Any) -> None:
        """Nothing: the layer loads it."""


class DroppedLSTM(nn.Module):
    """One LSTM, of whose recurrent weights training leaves a share out: [B,L,inner] to
    [B,L,outer]. Weights start uniform within 1 / sqrt(outer), as torch's do.
    """

    def __init__(self, inner: int, outer: int, drop: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(outer)

        def fresh(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.weight_ih, self.weight_hh = fresh(4 * outer, inner), fresh(4 * outer, outer)
        self.bias_ih, self.bias_hh = fresh(4 * outer), fresh(4 * outer)
        self._outer, self._drop = outer, drop

    def forward(
        self, x: Tensor, states: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What it gives, and what it remembers, two tensors [1,B,outer]; zeros to begin with."""
        recurrent: Tensor = self.weight_hh
        if self.training and self._drop:
            recurrent = functional.dropout(recurrent, self._drop)
        if states is None:
            states = (x.new_zeros(1, x.shape[0], self._outer),) * 2
        weights = (self.weight_ih, recurrent, self.bias_ih, self.bias_hh)
        # has biases, 1 layer, no dropout of its own, training, one direction, batch first
        out, hidden, cell = torch.lstm(
            x, tuple(states), weights, True, 1, 0.0, self.training, False, True
        )
        return out, (hidden, cell)
