"""Datasets of users: what a `path/to/file.py:function` of theirs may return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcli.data.arrays import REQUIRED, from_arrays
from kdcli.data.source import ImageArrays, ImageFolder, Source
from kdcli.errors import BadData


def from_user(value: Any, *, origin: str = "the dataset's function") -> Source:
    """A source from what a user's function returned.

    Args:
        value: Pictures, a Folder, a mapping as for `from_arrays`, or the tuple (x_train, y_train,
            x_test, y_test).
        origin: for messages.

    Raises:
        BadData: it is none of these, or an array in it is not as it must be.
    """
    if isinstance(value, ImageArrays | ImageFolder):
        return value
    if isinstance(value, Mapping):
        return from_arrays(value, origin=origin)
    if isinstance(value, tuple | list) and len(value) == len(REQUIRED):
        return from_arrays(dict(zip(REQUIRED, value, strict=True)), origin=origin)
    raise BadData(
        f"{origin} returned {type(value).__name__}",
        hint=f"return a dict or tuple of {', '.join(REQUIRED)}",
    )
