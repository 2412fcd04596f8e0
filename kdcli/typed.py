"""Records read back from JSON: the one way from a file that anybody may have written to a value of
known types. No torch.
"""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kdcli.errors import CorruptFile
from kdcli.files import DAMAGED

T = TypeVar("T")
_MOST_GAPS = 100_000  # numbers that JSON had no word for, in one file


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def from_dict(kind: type[T], data: Any, origin: Path | str) -> T:
    """Rebuilds a frozen record from the JSON it was written as, as `strict` does.

    Raises:
        CorruptFile: `origin` lacks a field or holds one of another type.
    """
    try:
        return strict(kind, data)
    except ValueError as error:
        raise CorruptFile(f"{origin} is not what kd writes: {error}", hint=DAMAGED) from error


def strict(kind: type[T], data: Any) -> T:
    """A value of a type from what JSON has of it: text is no number, and a number is no text. Keys
    of a newer kd are ignored.

    JSON has no word for NaN and infinity, so null where a number must stand is read as NaN.

    Raises:
        ValueError: the first field that is missing or of another type, in a few words.
    """
    try:
        found: T = _validated(kind, data)
    except ValidationError as error:
        raise ValueError(complaint(error)) from error
    return found


def complaint(error: ValidationError) -> str:
    """The first thing that is wrong, and where, in a few words."""
    if error.error_count() > _MOST_GAPS:  # to list them would take longer than to read them
        return f"{error.error_count():,} values are missing or of a wrong type"
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:60] for part in first["loc"][:6])
    told = first["msg"].removeprefix("Value error, ")
    told = f"{told[:1].lower()}{told[1:]}"[:200]
    return f"{place}: {told}" if place else told


def _validated(kind: Any, data: Any) -> Any:
    try:
        return _strictly(kind, data)
    except ValidationError as error:
        if error.error_count() > _MOST_GAPS:
            raise
        wrong = error.errors(include_url=False, include_context=False)
        gaps = [
            found["loc"]
            for found in wrong
            if found["type"] == "float_type" and found["input"] is None
        ]
        if len(gaps) < len(wrong):
            raise
    whole = copy.deepcopy({"": data})
    for place in gaps:
        _fill(whole, ("", *place))
    return _strictly(kind, whole[""])


def _strictly(kind: Any, data: Any) -> Any:
    # through JSON, because there strictness does not ask for Python's tuples
    return _adapter(kind).validate_json(json.dumps(data, default=str), strict=True)


def _fill(value: Any, place: tuple[int | str, ...]) -> None:
    """Puts NaN where a number is missing."""
    for part in place[:-1]:
        value = value[part]
    value[place[-1]] = math.nan
