"""The JSON Schema of recipes, for completion and red squiggles in editors; docs/recipe.schema.json
is a copy of it.

More lenient than kd in one respect: nothing is required, because a file may get any key from the
one that it extends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from pydantic import BaseModel

from kdcli import catalog
from kdcli.recipe import schema as types
from kdcli.recipe.reading.layers import NAMED, TABLES, Kind, recipe_class

_REF = "#/$defs/{model}"
_OWN_FILE = r"\.py(:|$)"  # path/to/file.py:function, whose options only that file knows


def schema() -> dict[str, Any]:
    """The schema of both kinds of recipe."""
    definitions: dict[str, Any] = {}
    kinds: tuple[Kind, ...] = ("distill", "train-teacher")
    for kind in kinds:
        definitions[kind] = _recipe(kind, definitions)
    for base in {*NAMED.values(), *(_base(table) for table in TABLES.values())}:
        definitions.pop(base.__name__, None)  # their unions have taken their place
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kd recipe",
        "description": "A recipe of kd distill or kd train-teacher.",
        "anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds],
        "$defs": dict(sorted(definitions.items())),
    }


def _recipe(kind: Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    cls = recipe_class(kind)
    found = _of(cls, definitions)
    for section in (*NAMED, *TABLES):
        if section in cls.model_fields:
            definitions[section] = _union(section, definitions)
            found["properties"][section] = {"$ref": f"#/$defs/{section}"}
    if "teacher" in cls.model_fields:
        one = {"$ref": "#/$defs/TeacherSection"}
        found["properties"]["teacher"] = {
            "anyOf": [one, {"type": "array", "items": one}],
            "description": "One teacher, or several.",
        }
    extends = {
        "type": "string",
        "description": (
            "A recipe that this one changes; a path beside this file, or a shipped recipe."
        ),
    }
    return {**found, "properties": {"extends": extends, **found["properties"]}}


def _of(cls: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one class; those that it refers to go to the definitions."""
    found: dict[str, Any] = _tidied(cls.model_json_schema(ref_template=_REF))
    for name, inner in found.pop("$defs", {}).items():
        definitions[name] = {key: value for key, value in inner.items() if key != "required"}
    found.pop("required", None)
    return found


def _tidied(value: Any) -> Any:
    """A schema without what a TOML file cannot say (null), and without the titles that pydantic
    makes up from field names.
    """
    if isinstance(value, list):
        return [_tidied(item) for item in value if item != {"type": "null"}]
    if not isinstance(value, Mapping):
        return value
    found = {
        key: _tidied(item)
        for key, item in value.items()
        if not (key == "title" and isinstance(item, str)) and item is not None
    }
    (only,) = found["anyOf"] if len(found.get("anyOf", ())) == 1 else ({},)
    return {**only, **{key: item for key, item in found.items() if not only or key != "anyOf"}}


# ---- sections whose name selects a branch --------------------------------------------------------


def _union(section: str, definitions: dict[str, Any]) -> dict[str, Any]:
    branches = [_branch(section, names, cls, definitions) for names, cls in _classes(section)]
    base = NAMED.get(section) or _base(TABLES[section])
    own = [_own_file(section, definitions)] if section in NAMED else []
    return {"description": base.__doc__, "anyOf": [*branches, *own, _nameless(branches)]}


def _base(table: Mapping[str, type[BaseModel]]) -> type[BaseModel]:
    """The class that all classes of a table inherit from."""
    return next(iter(table.values())).__mro__[1]


def _nameless(branches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A section without a name, which a file that extends another may have: any option of any
    branch.
    """
    properties: dict[str, Any] = {}
    for branch in branches:
        for key, value in branch["properties"].items():
            differs = key in properties and properties[key] != value
            properties[key] = {"description": value.get("description", "")} if differs else value
    properties.pop("name")
    return {
        "type": "object",
        "properties": properties,
        "not": {"required": ["name"]},
        "additionalProperties": False,
    }


def _classes(section: str) -> Iterable[tuple[tuple[str, ...], type[BaseModel]]]:
    """The branches of a section, those with the same options together, each with its names."""
    if section in TABLES:
        return [((name,), cls) for name, cls in TABLES[section].items()]
    base = NAMED[section]
    known = sorted(
        catalog.entries(base.KIND).values(), key=lambda entry: (str(entry.path), entry.name)
    )
    groups = [
        tuple(entry.name for entry in group)
        for _, group in groupby(known, key=lambda entry: entry.path)
    ]
    return [(names, types.branch(base, names[0])) for names in groups]


def _branch(
    section: str, names: tuple[str, ...], cls: type[BaseModel], definitions: dict[str, Any]
) -> dict[str, Any]:
    found = _of(cls, definitions)
    name = {
        "description": found["properties"]["name"].get("description", f"Which {section}."),
        **_names(names),
    }
    return {**found, "properties": {**found["properties"], "name": name}, "required": ["name"]}


def _names(names: tuple[str, ...]) -> dict[str, Any]:
    """The schema of `name`: some of the names, or anything that an adapter such as torchvision/*
    takes.
    """
    plain = [name for name in names if not name.endswith("/*")]
    adapters = [
        {"type": "string", "pattern": f"^{name[:-1]}"} for name in names if name.endswith("/*")
    ]
    choices: list[dict[str, Any]] = [*([{"enum": plain}] if plain else []), *adapters]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _own_file(section: str, definitions: dict[str, Any]) -> dict[str, Any]:
    found = _of(NAMED[section], definitions)
    name = {
        "type": "string",
        "pattern": _OWN_FILE,
        "description": f"A {NAMED[section].KIND} of your own.",
    }
    properties = {**found["properties"], "name": name}
    return {
        "type": "object",
        "description": name["description"],
        "properties": properties,
        "required": ["name"],
    }
