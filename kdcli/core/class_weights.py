"""Class weights: how much each class counts in the cross-entropy with labels.

They reach the losses around the methods, which do not know of them: the engine says which weights
hold while it computes a loss, and the terms that read labels (kdcli.losses.cross_entropy and its
kin) ask for them. What is learned from a teacher is not weighed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True, eq=False)
class ClassWeights:
    """values: [K] float32 on the device, with mean 1 over the images that training shows. held,
    used: whether a loss was computed while they held, and whether one asked for them.
    """

    values: Tensor
    held: bool = False
    used: bool = False


_holding: ContextVar[ClassWeights | None] = ContextVar("class weights", default=None)


@contextmanager
def weighing(weights: ClassWeights | None) -> Iterator[None]:
    """A context in which losses weigh the classes; None weighs nothing."""
    if weights is not None:
        weights.held = True
    token = _holding.set(weights)
    try:
        yield
    finally:
        _holding.reset(token)


def weights_of(y: Tensor) -> Tensor | None:
    """The weight [N] of each label [N]; None where no weights hold."""
    weights = _holding.get()
    if weights is None:
        return None
    weights.used = True
    return weights.values[y]
