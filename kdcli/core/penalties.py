"""Penalties: terms of the loss that a network adds to that of any method, such as the norm of its
activations.

They reach the loss around the methods, which do not know of them: the engine asks which there are
after it has computed a loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_added: ContextVar[dict[str, Tensor] | None] = ContextVar("penalties", default=None)


@contextmanager
def penalising() -> Iterator[dict[str, Tensor]]:
    """A context in which networks add penalties: scalars by name, weighted already."""
    found: dict[str, Tensor] = {}
    token = _added.set(found)
    try:
        yield found
    finally:
        _added.reset(token)


def penalise(name: str, value: Tensor) -> None:
    """Adds a penalty, where a loss is computed; those of several networks add up."""
    found = _added.get()
    if found is not None:
        found[name] = found[name] + value if name in found else value
