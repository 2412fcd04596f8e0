"""Numbers with units on the command line: 5ms, 2h30m, 1.5M."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MILLISECONDS: Mapping[str, float] = {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3}
_SECONDS: Mapping[str, float] = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_COUNTS: Mapping[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


def _scaled(text: str, units: Mapping[str, float], example: str) -> float:
    found = re.fullmatch(rf"\s*([-+]?{_NUMBER}(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[3] not in units:
        raise ValueError(f"{text!r} is no such quantity; for example {example}")
    return float(found[1]) * units[found[3]]


def milliseconds(text: str) -> float:
    """5ms, 0.8, 200us or 1s, in milliseconds; a number alone is in milliseconds.

    Raises:
        ValueError: it is something else.
    """
    return _scaled(str(text), _MILLISECONDS, "5ms")


def amount(text: str) -> float:
    """1500, 20k, 1.5M or 1e6.

    Raises:
        ValueError: it is something else.
    """
    return _scaled(str(text), _COUNTS, "200k")


def seconds(text: str) -> float:
    """2h, 90m, 1h30m or 45s, in seconds; a number needs a unit.

    Raises:
        ValueError: it is something else, or no time at all.
    """
    part = rf"{_NUMBER}\s*(d|h|min|m|s)"
    if not re.fullmatch(rf"\s*(?:{part}\s*)+", str(text)):
        raise ValueError(f"{text!r} is no length of time; for example 2h or 1h30m")
    total = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(part, str(text)))
    if total <= 0:
        raise ValueError(f"{text!r} is no time at all")
    return total
