"""The keyword arguments of `distill` and `train_teacher`, as overrides of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kdcli.recipe.resolve import Flag, Resolved, resolve

# keyword argument -> recipe key: the aliases that the command line has as flags
ALIASES: Mapping[str, str] = {
    "teacher": "teacher.checkpoint",
    "method": "method.name",
    "student": "student.name",
    "model": "model.name",
    "data": "data.name",
    "epochs": "train.epochs",
    "seed": "seed",
    "name": "name",
    "device": "runtime.device",
    "devices": "runtime.devices",
    "precision": "runtime.precision",
}


def resolved_keywords(
    kind: Literal["train-teacher", "distill"],
    recipe: Resolved | str | Path | None,
    overrides: Mapping[str, Any] | None,
    aliases: Mapping[str, Any],
) -> Resolved:
    """A recipe over which a caller's arguments are laid; one that is resolved stays as it is.

    Args:
        overrides: recipe keys and values. aliases: keyword arguments of ALIASES.

    Raises:
        TypeError: there is no such argument. KdError: as `resolve`.
    """
    if isinstance(recipe, Resolved):
        return recipe
    unknown = sorted(set(aliases) - set(ALIASES))
    if unknown:
        raise TypeError(
            f"{kind} takes no argument {unknown[0]!r}; recipe keys go into overrides={{...}}"
        )
    flags = [Flag(option=name, key=ALIASES[name], value=value) for name, value in aliases.items()]
    flags += [
        Flag(option=f"overrides[{key!r}]", key=key, value=value)
        for key, value in (overrides or {}).items()
    ]
    return resolve(kind, file=None if recipe is None else Path(recipe), flags=flags)
