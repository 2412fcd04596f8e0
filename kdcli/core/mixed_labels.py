"""Mixed labels: a minibatch whose every picture is a mixture of two, and so is its label.

Like class weights they reach the losses around the methods, which do not know of them: the engine
says which labels hold beside those of the batch while it computes a loss, and the terms that read
labels (kdcli.losses.cross_entropy, kdcli.losses.label_smoothing) ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class Mixed(NamedTuple):
    """The other labels of a minibatch, [B] int64, and the share of its own, in [0, 1]."""

    y: Tensor
    share: float


_holding: ContextVar[Mixed | None] = ContextVar("mixed labels", default=None)


@contextmanager
def mixing(labels: Mixed | None) -> Iterator[None]:
    """A context in which losses read these labels beside those that they are given."""
    token = _holding.set(labels)
    try:
        yield
    finally:
        _holding.reset(token)


def of_both(loss: Callable[[Tensor], Tensor], y: Tensor) -> Tensor | None:
    """A loss of labels [N] as its two values by their shares; None where labels are not mixed."""
    mixed = _holding.get()
    if mixed is None:
        return None
    with mixing(None):
        return mixed.share * loss(y) + (1 - mixed.share) * loss(mixed.y)
