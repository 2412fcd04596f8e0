"""Networks that sort texts into classes: small transformer encoders, and bags of words.

An encoder reads all words of a text at once, as BERT does (J. Devlin et al., arXiv:1810.04805), and
the mean over its words feeds the last layer. A bag of words is the mean of its words' vectors and a
perceptron (M. Iyyer et al., Deep unordered composition rivals syntactic methods for text
classification, ACL 2015), which knows no order.

Tokens 0 fill a text up: they are looked at by nothing and count in no mean, so that a text's logits
do not depend on how far it is filled up.

Both train here from nothing. Their vocabulary is the data's. The tap is "pooled", [B,D].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.core.options import Options as ModelOptions
from kdcli.core.types import Output, Tap
from kdcli.models._checks import check_taps
from kdcli.models._transformer import Block, check_heads, fresh_embedding, tokens_of

VARIANTS: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "summary": "transformer encoder of four blocks, 128 wide, for texts with classes",
        "task": "text-classification",
        "arguments": {
            "vocabulary": 10000,
            "width": 128,
            "layers": 4,
            "heads": 4,
            "dropout": 0.1,
        },
        "smaller": "text_encoder_small",
        "input_shape": [1, 1, 128],
    },
    "text_encoder_small": {
        "summary": "transformer encoder of one block, 32 wide",
        "task": "text-classification",
        "arguments": {
            "vocabulary": 10000,
            "width": 32,
            "layers": 1,
            "heads": 2,
            "dropout": 0.1,
        },
        "smaller": "bag_of_words",
        "input_shape": [1, 1, 128],
    },
    "bag_of_words": {
        "summary": "the mean of a text's words, 16 wide, and a perceptron",
        "task": "text-classification",
        "arguments": {
            "vocabulary": 10000,
            "width": 16,
            "layers": 0,
            "heads": 1,
            "dropout": 0.1,
        },
        "smaller": None,
        "input_shape": [1, 1, 128],
    },
}


class Options(ModelOptions):
    """What may be changed of an encoder; the variant's own value unless given."""

    width: int | None = Field(None, ge=1, le=4096, description="Of a word's vector.")
    layers: int | None = Field(
        None, ge=0, le=48, description="Transformer blocks; 0 makes it a bag of words."
    )
    heads: int | None = Field(None, ge=1, le=64, description="Of attention.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Of what each block adds.")


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> TextClassifier:
    """An encoder with fresh weights. Tap: "pooled", [B,D], what feeds the last layer.

    Raises:
        Incompatible: the input is no text. UsageError: the width cannot be shared among the heads.
    """
    if tuple(input_shape[:2]) != (1, 1):
        from kdcli.errors import Incompatible

        raise Incompatible(
            f"{name} reads texts, and these are pictures of {'x'.join(map(str, input_shape))}",
            hint="-d labelled-text, or a network of pictures: kd models",
        )
    check_heads(name, arguments["width"], arguments["heads"])
    return TextClassifier(name, num_classes, input_shape[2], **arguments)


class TextClassifier(Network):
    """Tokens of a text to logits of its class.

    Args:
        name: for messages. length: tokens of a text at most. vocabulary: how many there are, <pad>
            and <unk> counted. Others: as Options.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        length: int,
        *,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.taps = {"pooled": Tap(width, None)}
        self.words = fresh_embedding(vocabulary, width)
        self.places = fresh_embedding(length, width) if layers else None
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dense, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        """Logits [B,K] of tokens x [B,1,1,L]."""
        check_taps(self.name, taps, self.taps)
        tokens = tokens_of(x)  # [B,L]
        there = tokens > 0
        seen = self.words(tokens)
        if self.places is not None:
            seen = self.dropout(seen + self.places.weight[: tokens.shape[1]])
            # a text without a word looks at all places: a softmax over none would be NaN
            looked_at = there | ~there.any(1, keepdim=True)
            for block in self.blocks:
                seen = block(seen, looked_at[:, None, None])
        seen = self.norm(seen)
        counted = there.unsqueeze(2).to(seen.dtype)
        mean = (seen * counted).sum(1) / counted.sum(1).clamp(min=1)  # [B,D]
        pooled = self.dropout(self.dense(mean).relu())
        return Output(self.classify(pooled), {"pooled": pooled} if taps else {})

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        """All but the last layer."""
        check_taps(self.name, (upto,), self.taps)
        places = () if self.places is None else (self.places,)
        return (self.words, *places, *self.blocks, self.norm, self.dense)

    def norm_at(self, tap: str) -> None:
        """None: there are no batch norms."""
        check_taps(self.name, (tap,), self.taps)
