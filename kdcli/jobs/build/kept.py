"""What runs in one process keep for those after them: the cells of a sweep have their data, their
teacher and their networks' latency in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast

_T = TypeVar("_T")
_kept: ContextVar[dict[str, dict[str, object]] | None] = ContextVar("_kept", default=None)


@contextmanager
def between_runs() -> Iterator[None]:
    """Within it things are kept for whoever asks for them next; files and the machine are taken not
    to change.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def keeping() -> bool:
    """Tells whether anything is kept."""
    return _kept.get() is not None


def get(kind: str, key: str, make: Callable[[], _T], *, most: int = 1) -> _T:
    """A thing that is kept, or that is made and then kept, where things are.

    Args:
        kind: of the thing. key: what tells it from others of its kind.
        most: things of its kind that are kept; where there are more, all others go, and go first:
            there may be no room for two.
    """
    shelves = _kept.get()
    if shelves is None:
        return make()
    shelf = shelves.setdefault(kind, {})
    if key not in shelf:
        if len(shelf) >= most:
            shelf.clear()
        shelf[key] = make()
    return cast("_T", shelf[key])
