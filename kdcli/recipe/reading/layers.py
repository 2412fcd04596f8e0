"""The layers of a recipe's values, one over the other: parents, file, environment, --set and flags;
each value keeps its origin.

Only the shape of a recipe is known here, not its rules: a wrong key or value passes through and is
explained later, where it stands.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

from kdcli.recipe import schema
from kdcli.recipe.reading.toml_file import KeyPath, Origin

Kind = Literal["train-teacher", "distill"]
O = TypeVar("O")  # noqa: E741

TABLES: Mapping[str, Mapping[str, type[schema.Section]]] = {
    "optim": schema.OPTIMISERS,
    "schedule": schema.SCHEDULES,
}
NAMED: Mapping[str, type[schema.Named]] = {
    "data": schema.DataSection,
    "model": schema.NetworkSection,
    "student": schema.NetworkSection,
    "method": schema.MethodSection,
}


@dataclass
class Layer:
    """Values, the origin of each node of them by path, and what was dropped on the way, one
    sentence each.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def get(self, *path: str | int) -> Any:
        """The value at a path, or None."""
        value: Any = self.values
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value

    def origin(self, path: KeyPath) -> Origin | None:
        """The origin of a path, or of the nearest table around it that has one."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path)

    def put(self, path: KeyPath, value: Any, origin: Origin) -> None:
        """Sets one value, making the tables around it.

        Raises:
            KeyError: what should be a table is a plain value.
        """
        table = self.values
        for depth, part in enumerate(path[:-1], start=1):
            table = table.setdefault(str(part), {})
            if not isinstance(table, dict):
                raise KeyError(dotted(path[:depth]))
            self.origins.setdefault(path[:depth], origin)
        self.forget(path)
        table[str(path[-1])] = copy.deepcopy(value)
        self.origins.update(_every_path(path, value, origin))

    def forget(self, path: KeyPath) -> None:
        """Drops a value, what is below it, and where it came from."""
        table = self.get(*path[:-1]) if path[:-1] else self.values
        value = table.pop(str(path[-1]), None) if isinstance(table, dict) else None
        for known, _ in list(_every_path(path, value, None)):
            self.origins.pop(known, None)


def dotted(path: Iterable[str | int]) -> str:
    """A key path as people write it: train.epochs."""
    return ".".join(str(part) for part in path)


def _every_path(path: KeyPath, value: Any, origin: O) -> Iterable[tuple[KeyPath, O]]:
    yield path, origin
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from _every_path((*path, key), item, origin)


# ---- laying one over another ---------------------------------------------------------------------


def lay(below: Layer, above: Layer, kind: Kind) -> Layer:
    """`above` over `below`, table by table. A section that takes another name loses the options of
    its earlier one.
    """
    result = Layer(copy.deepcopy(below.values), dict(below.origins), [*below.notes, *above.notes])
    for section in (*NAMED, *TABLES):
        _switch(result, above, section, kind)
    _switch_teacher(result, above)
    _lay_table(result, above, ())
    return result


def _lay_table(result: Layer, above: Layer, path: KeyPath) -> None:
    source = above.get(*path) if path else above.values
    target = result.get(*path) if path else result.values
    for key, value in source.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _lay_table(result, above, here)
            continue
        result.forget(here)
        target[key] = copy.deepcopy(value)
        result.origins.update(
            {
                known: above.origins[known]
                for known, _ in _every_path(here, value, None)
                if known in above.origins
            }
        )


def _switch(result: Layer, above: Layer, section: str, kind: Kind) -> None:
    old, new = (
        result.get(section, "name") or default_name(section, kind),
        above.get(section, "name"),
    )
    table = result.get(section)
    if not isinstance(table, dict) or not isinstance(new, str) or new == old:
        return
    for key in [key for key in table if key not in _shared(section, str(old), new)]:
        origin = result.origins[section, key]
        if key != "name":
            result.notes.append(
                f"{section}.{key} of {origin.label} belongs to {old} and is left out: "
                f"{section}.name is {new}"
            )
        result.forget((section, key))


def _switch_teacher(result: Layer, above: Layer) -> None:
    """Naming another kind of source for the teacher replaces the earlier one instead of
    contradicting it.
    """
    old, new = result.get("teacher"), above.get("teacher")
    if (
        isinstance(old, dict)
        and isinstance(new, dict)
        and any(source in new for source in schema.TEACHER_SOURCES)
    ):
        for key in (*schema.TEACHER_SOURCES, "weights", "epochs", "schedule"):
            if key in old:
                result.forget(("teacher", key))


@cache
def default_name(section: str, kind: Kind) -> str | None:
    """The default `name` of a section; None where it must be given."""
    found = recipe_class(kind).model_fields.get(section)
    if found is None or found.is_required() or (section not in NAMED and section not in TABLES):
        return None
    return str(found.get_default(call_default_factory=True).name)


def recipe_class(kind: Kind) -> type[schema.Recipe]:
    """The recipe class of a kind."""
    return schema.TrainTeacherRecipe if kind == "train-teacher" else schema.DistillRecipe


def _shared(section: str, old: str, new: str) -> frozenset[str]:
    """Keys of a section that mean the same under both names. A learning rate is no such key:
    optimisers default to different ones.
    """
    if section in NAMED:
        return frozenset(NAMED[section].model_fields)
    classes = [TABLES[section].get(name) for name in (old, new)]
    if None in classes:
        return frozenset({"name"})
    first, second = (found.model_fields for found in classes if found is not None)
    return frozenset(
        key for key in first.keys() & second.keys() if first[key].default == second[key].default
    )
