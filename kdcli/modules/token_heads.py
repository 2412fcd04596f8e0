"""The two heads of a vision transformer with a distillation token, apart: its network answers their
mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.losses._inputs import full_precision, precise


class TokenHeads(nn.Module):
    """Logits of the class token and of the distillation token, whose mean the network answers.

        class token         2 W a + b + d
        distillation token  2 V c + b - d

    [W, V] and b are the network's head on its two tokens [a, c], which answers W a + V c + b. d is
    what the biases of two heads differ by from their mean: learnt, and of no consequence to it.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.apart = nn.Parameter(torch.zeros(classes))

    def forward(self, network: Network, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Both logits [B,K] of a network's "pooled" vectors [B,D]."""
        assert network.distilled is not None
        parts = list(network.distilled)
        weights = torch.split(precise(network.head.weight), parts, dim=1)
        tokens = torch.split(precise(pooled), parts, dim=1)
        with full_precision(pooled):
            first, second = (
                2 * token @ weight.T for token, weight in zip(tokens, weights, strict=True)
            )
        bias = network.head.bias
        mean = torch.zeros_like(self.apart) if bias is None else bias
        return first + mean + self.apart, second + mean - self.apart
