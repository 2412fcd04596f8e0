"""Checks of a loss's arguments, from shapes and Python numbers alone: nothing here waits for the
device.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from kdcli.errors import Incompatible, UsageError


def precise(x: Tensor) -> Tensor:
    """The same values in float32, or float64 if they are that: half precision overflows or loses
    all digits in what follows.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which matrix products are as precise as their arguments: autocast would round
    them to half precision again.
    """
    return torch.autocast(x.device.type, enabled=False)


def unit(x: Tensor) -> Tensor:
    """Rows [...,D] divided by their norms. A row of zeros stays one, and its gradient is that of a
    row of norm 1.

    Dividing by a small number instead makes the gradient of such a row explode (1e12 for the usual
    eps).
    """
    square = x.square().sum(-1, keepdim=True)
    return x / square.masked_fill(square == 0, 1.0).sqrt()


def relative_entropy(log_of: Tensor, log_from: Tensor) -> Tensor:
    """KL( of || from ) of each row [...], nats, from log-probabilities [...,K]."""
    return (log_of.exp() * (log_of - log_from)).sum(-1)


def rows(x: Tensor, function: str) -> Tensor:
    """Logits [...,K] made precise.

    Raises:
        Incompatible: fewer than two classes, for which every softmax is 1.
    """
    if x.ndim == 0 or x.shape[-1] < 2:
        raise Incompatible(
            f"losses.{function} needs logits [..., K] of at least two classes, got shape "
            f"{list(x.shape)}"
        )
    return precise(x)


def pair(z: Tensor, v: Tensor, function: str) -> tuple[Tensor, Tensor]:
    """Student and teacher logits [N,K] made precise, the teacher's without gradient.

    Raises:
        Incompatible: shapes that differ, that are not [N,K] with N >= 1, or fewer than two classes.
    """
    if z.shape != v.shape or z.ndim != 2 or z.shape[0] == 0:
        shapes = f"{list(z.shape)} and {list(v.shape)}"
        raise Incompatible(
            f"losses.{function} needs student and teacher logits of one shape [N, K], got {shapes}"
        )
    return rows(z, function), rows(v.detach(), function)


def labelled(z: Tensor, y: Tensor, function: str) -> Tensor:
    """Logits [N,K] made precise, after a look at their labels [N].

    Raises:
        Incompatible: labels that are not one integer a row.
    """
    if z.ndim != 2 or y.shape != z.shape[:1] or y.is_floating_point() or z.shape[0] == 0:
        shapes = f"{list(z.shape)} and {list(y.shape)} {str(y.dtype).removeprefix('torch.')}"
        raise Incompatible(
            f"losses.{function} needs logits [N, K] and integer labels [N], got {shapes}"
        )
    return rows(z, function)


def positive(value: float, what: str, function: str) -> float:
    """A number above 0.

    Raises:
        UsageError: it is not, or is infinite.
    """
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"losses.{function}: {what} must be a number above 0, got {value}")
    return value
