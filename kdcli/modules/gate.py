"""The gate of an on-the-fly ensemble: how much each branch counts for each image."""

from __future__ import annotations

from torch import Tensor, nn

from kdcli.losses._inputs import precise
from kdcli.modules.vector_norm import VectorNorm


class Gate(nn.Module):
    """A shared map [B,C,H,W] to weights [B,M] that sum to 1: its average, a linear layer, batch
    norm, ReLU, softmax.

    Source: Lan, Zhu, Gong 2018, Knowledge distillation by on-the-fly native ensemble, section 3.1;
    ONE_NeurIPS2018@9da95a8b models/cifar/resnet.py.
    """

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, branches)
        self.norm = VectorNorm(branches)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] to [B,M]."""
        return precise(self.norm(self.linear(x.mean((2, 3))))).relu().softmax(-1)
