"""The step of distillation as the field's repositories write it: torch and nothing else, so that a
process that measures what torch needs can take it too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pairs import Pair

TEMPERATURE, WEIGHT = 4.0, 0.9


def make_optimiser(pair: Pair, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the pair's table, as the field constructs it."""
    if pair.optim.get("optim.name") == "adamw":
        return torch.optim.Adam(network.parameters(), lr=1e-3)
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def distillation_loss(student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy and Hinton's term. student, teacher: logits [B,K]; y [B]."""
    soft = functional.kl_div(
        functional.log_softmax(student / TEMPERATURE, dim=1),
        functional.softmax(teacher / TEMPERATURE, dim=1),
        reduction="batchmean",
    )
    return (1 - WEIGHT) * functional.cross_entropy(student, y) + WEIGHT * TEMPERATURE**2 * soft
