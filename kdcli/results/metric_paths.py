"""The numbers of a run by dotted path, `test.accuracy` or `gap.entropy`: what sweeps, tables and
comparisons may name.

Standard library only: a sweep file is checked before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator

from kdcli.results.run import RunResult


@functools.cache
def paths() -> tuple[str, ...]:
    """Every path that leads to a number of a RunResult."""
    return tuple(_paths(RunResult, ""))


def _paths(kind: type, prefix: str) -> Iterator[str]:
    derived = {
        name: typing.get_type_hints(item.fget)["return"]
        for name, item in vars(kind).items()
        if isinstance(item, property)
    }
    for name, hint in {**typing.get_type_hints(kind), **derived}.items():
        if typing.get_origin(hint) not in {None, typing.Union, types.UnionType}:
            continue  # a tuple or a mapping holds no one number
        inside = [part for part in (typing.get_args(hint) or (hint,)) if isinstance(part, type)]
        if any(part in {int, float} for part in inside):
            yield prefix + name
        for part in inside:
            if dataclasses.is_dataclass(part):
                yield from _paths(part, f"{prefix}{name}.")
