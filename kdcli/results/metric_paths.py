"""The numbers of a run by dotted path, `test.accuracy` or `gap.entropy`: what sweeps, tables and
comparisons may name.

Behind entropies and free energies may stand a temperature of the run's report, `test.entropy@4`;
`train_losses.kd` is one term of the loss.

Standard library only: a sweep file is checked before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterator

from kdcli.results.run import RunResult

TERMS = "train_losses."  # what follows is up to the method
SOFTENED = tuple(
    f"{of}.{quantity}"
    for of in ("test", "teacher.test", "reference.test", "gap", "aligned_gap")
    for quantity in ("entropy", "free_energy")
)

Suggest = Callable[[str, tuple[str, ...]], str | None]


@functools.cache
def paths() -> tuple[str, ...]:
    """Every path that leads to a number of a RunResult, but for temperatures and loss terms."""
    return tuple(_paths(RunResult, ""))


def split(path: str) -> tuple[str, float | None]:
    """A path that there is without its temperature, and the temperature, if one stands there."""
    base, _, tau = path.partition("@")
    return base, float(tau) if tau else None


def complaint(path: str, suggest: Suggest) -> tuple[str, str] | None:
    """What is wrong with a path, and what there is instead; None for one that leads to a number.

    suggest: kdcli.catalog's.
    """
    base, at, tau = path.partition("@")
    if base.startswith(TERMS) and base.removeprefix(TERMS).isidentifier() and not at:
        return None
    if base not in paths():
        near = suggest(base, paths())
        there_are = f"there are {', '.join(paths())}, and {TERMS}TERM"
        return (
            f"{path!r} is not a number of a run's summary",
            f'did you mean "{near}{at}{tau}"?' if near else there_are,
        )
    if at and base not in SOFTENED:
        return f"{path!r}: {base} has no temperature", f"these have one: {', '.join(SOFTENED)}"
    if at and not _is_temperature(tau):
        return (
            f"{path!r}: a temperature must be a number greater than 0, got {tau!r}",
            f"{base}@4, for example",
        )
    return None


def _is_temperature(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


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
