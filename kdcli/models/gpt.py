"""Small GPTs: transformers that read a text from left to right.

A. Radford et al., Language models are unsupervised multitask learners (GPT-2), 2019, in small:
blocks with the norms before attention and perceptron, learnt places, GELU, and the words embedded
by the last layer's own weights.

A window of text is read from its beginning, and nothing is remembered from the one before; a longer
text than `context` tokens, as where nothing is trained, is cut into blocks of that many, each read
alone. So the first tokens of a block have little before them, and a perplexity is that of disjoint
blocks. Dropout is of the embedded words and of what each block adds.

Tap: "pooled", [B*L,D].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdcli.core.network import Network
from kdcli.core.options import Options as ModelOptions
from kdcli.core.types import Output, Tap
from kdcli.models._checks import check_taps
from kdcli.models._transformer import Block, check_heads, fresh_embedding, in_blocks, tokens_of
from kdcli.models.awd_lstm import TiedEmbedding

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt": {
        "summary": "GPT of four blocks, 128 wide, for a CPU",
        "task": "language-modelling",
        "arguments": {"width": 128, "layers": 4, "heads": 4, "context": 128, "dropout": 0.1},
        "smaller": "gpt_small",
        "input_shape": [1, 1, 1],
    },
    "gpt_small": {
        "summary": "GPT of two blocks, 48 wide",
        "task": "language-modelling",
        "arguments": {"width": 48, "layers": 2, "heads": 4, "context": 128, "dropout": 0.0},
        "smaller": None,
        "input_shape": [1, 1, 1],
    },
}


class Options(ModelOptions):
    """What may be changed of a GPT; the variant's own value unless given."""

    width: int | None = Field(None, ge=1, le=8192, description="Of a word's vector.")
    layers: int | None = Field(None, ge=1, le=96, description="Transformer blocks.")
    heads: int | None = Field(None, ge=1, le=128, description="Of attention.")
    context: int | None = Field(
        None, ge=1, le=4096, description="Tokens that it reads at once; data.window at least."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Of embedded words, and of what each block adds."
    )


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> SmallGpt:
    """A GPT with fresh weights. Tap: "pooled", [B*L,D], what feeds the last layer.

    Raises:
        Incompatible: the input is no token. UsageError: the width cannot be shared among the heads.
    """
    if tuple(input_shape) != (1, 1, 1):
        from kdcli.errors import Incompatible

        raise Incompatible(
            f"{name} reads words of a text, and these are pictures of "
            f"{'x'.join(map(str, input_shape))}",
            hint="-d text, or a network of pictures: kd models",
        )
    check_heads(name, arguments["width"], arguments["heads"])
    return SmallGpt(name, num_classes, **arguments)


class SmallGpt(Network):
    """Words of a text to logits of the word after each.

    Args:
        name: for messages. num_classes: words of the vocabulary. Others: as Options.
    """

    context: int

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        width: int,
        layers: int,
        heads: int,
        context: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.name, self.context = name, context
        self.taps = {"pooled": Tap(width, None)}
        self.places = fresh_embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        self.embedding = TiedEmbedding(self.head)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))  # of the embedding: see logits_divided

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        """Logits [B*L,K], window by window, of tokens x [B,1,1,L]."""
        check_taps(self.name, taps, self.taps)
        pooled = in_blocks(self._read, tokens_of(x), self.context)  # [B*L,D]
        return Output(self.classify(pooled), {"pooled": pooled} if taps else {})

    def _read(self, tokens: Tensor) -> Tensor:
        """What feeds the last layer, [B,L,D], of a block of tokens [B,L]."""
        seen = functional.embedding(tokens, self.embedding.weight) * self.scale
        seen = self.dropout(seen + self.places.weight[: tokens.shape[1]])
        for block in self.blocks:
            seen = block(seen, None, causal=True)
        normed: Tensor = self.norm(seen)
        return normed

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        """The embedding, whose weights are the head's too, the places, and all blocks."""
        check_taps(self.name, (upto,), self.taps)
        return (self.embedding, self.places, *self.blocks, self.norm)

    def norm_at(self, tap: str) -> None:
        """None: there are no batch norms."""
        check_taps(self.name, (tap,), self.taps)

    def logits_divided(self, divisor: float) -> None:
        """Embeds words as before: by the last layer's weights, times what these were divided by."""
        self.scale *= divisor
