"""Which images an epoch shows, and in what order: functions of a key, never of what was drawn
before.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kdcli.core import random

Sampler = Literal["shuffle", "balanced"]


def shuffled(stream: int, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Every image once. Arguments and result: as of `balanced`."""
    order = random.permutation(stream, len(targets), targets.device)
    return order, torch.zeros_like(order)


def balanced(stream: int, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As many images as there are, every class equally often: n / K times, give or take one.

    The images of a class are dealt in a new random order until its share is full: those of a small
    class come again as often as each other, give or take one; of a large class each comes once or
    not at all. Classes without images have no share.

    Args:
        stream: a key of kdcli.core.random.
        targets: [n] int64, the class of each image, on the device of the result.

    Returns:
        The positions of the images [n], and how often each of these had been dealt before [n].
    """
    n, device = len(targets), targets.device
    present = torch.bincount(targets).nonzero().flatten().tolist()
    share, rest = divmod(n, len(present))
    # who gets one more changes from epoch to epoch
    more = set(random.permutation(random.key(stream, "more"), len(present))[:rest].tolist())
    dealt, before = [], []
    for place, label in enumerate(present):
        of_class = (targets == label).nonzero().flatten()  # [m]
        wanted = share + (place in more)
        rounds = -(-wanted // len(of_class))
        numbers = torch.arange(rounds * len(of_class), device=device)
        draws = random.bits(random.key(stream, "class", label), numbers).view(rounds, -1)
        dealt.append(of_class[draws.argsort(dim=1)].flatten()[:wanted])
        before.append((numbers // len(of_class))[:wanted])
    order = random.permutation(random.key(stream, "mixed"), n, device)
    return torch.cat(dealt)[order], torch.cat(before)[order]
