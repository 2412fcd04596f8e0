"""Blocks of transformers that are trained here from nothing.

A. Vaswani et al., Attention is all you need, arXiv:1706.03762, with the norms before attention and
perceptron instead of behind them (R. Xiong et al., arXiv:2002.04745), which trains without a
warm-up, and GELU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and a perceptron, each added to what it is given: [B,L,D] to [B,L,D].

    Args:
        width: D. heads: of attention, D / heads wide each. dropout: of what is added.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
        """Args:
        mask: [B,1,1,L] bool, the places that are looked at; None for all. causal: look at none
            that follow.
        """
        x = x + self.dropout(self.output(self._attend(self.before_attention(x), mask, causal)))
        inner = functional.gelu(self.wide(self.before_perceptron(x)))
        added: Tensor = x + self.dropout(self.narrow(inner))
        return added

    def _attend(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:  # noqa: FBT001
        rows, length, width = x.shape
        parts = self.inputs(x).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [B,heads,L,D/heads]
        found = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal
        )
        return found.transpose(1, 2).reshape(rows, length, width)


def in_blocks(read: Callable[[Tensor], Tensor], tokens: Tensor, context: int) -> Tensor:
    """What a network says of texts, [B*L,D], read in blocks that begin anew.

    Args:
        read: takes a block [B,l] to [B,l,D]. tokens: [B,L]. context: of a block, at most.
    """
    rows, length = tokens.shape
    if length <= context:
        return read(tokens).flatten(0, 1)
    whole = length // context * context  # tokens in full blocks
    parts = [read(tokens[:, :whole].reshape(-1, context)).view(rows, whole, -1)]
    if whole < length:
        parts.append(read(tokens[:, whole:]))
    return torch.cat(parts, dim=1).flatten(0, 1)


def fresh_embedding(count: int, width: int) -> nn.Embedding:
    """An embedding whose vectors have standard deviation 0.02, as BERT's and GPT's do."""
    made = nn.Embedding(count, width)
    nn.init.normal_(made.weight, std=0.02)
    return made


def check_heads(name: str, width: int, heads: int) -> None:
    """Refuses a width that cannot be shared among heads.

    Raises:
        UsageError: it cannot.
    """
    if width % heads:
        from kdcli.errors import UsageError

        raise UsageError(
            f"{name} of width {width} cannot be shared among {heads} heads",
            hint=f"a width that {heads} divides, such as {heads * max(width // heads, 1)}",
        )


def tokens_of(x: Tensor) -> Tensor:
    """Tokens [B,L] int64 of an input [B,1,1,L]; a dry run gives zeros of float."""
    return x.flatten(1).to(torch.int64)
