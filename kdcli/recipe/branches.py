"""The classes that check the sections of a recipe: the branch that its `name` selects, and the
recipe type made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, create_model

from kdcli import catalog
from kdcli.errors import NotFound, UsageError
from kdcli.recipe import schema
from kdcli.recipe.reading.layers import NAMED, TABLES, Kind, Layer, default_name, recipe_class

_WORDS = {"optim": "optimiser", "schedule": "schedule"}


def choose(kind: Kind, layer: Layer) -> tuple[dict[str, type[BaseModel]], dict[str, UsageError]]:
    """The class of every section, and what is wrong with the names that select none.

    A section whose name selects nothing is still checked, as far as its keys are common to all
    names.
    """
    chosen: dict[str, type[BaseModel]] = {}
    wrong: dict[str, UsageError] = {}
    for section, found in recipe_class(kind).model_fields.items():
        if section in NAMED or section in TABLES:
            try:
                chosen[section] = _select(
                    section, layer.get(section, "name") or default_name(section, kind)
                )
            except UsageError as error:
                wrong[section] = error
                chosen[section] = _lenient(_any_branch(section))
        elif isinstance(found.annotation, type) and issubclass(found.annotation, BaseModel):
            chosen[section] = found.annotation
    if kind == "distill":
        chosen["teacher"] = schema.TeacherSection
    return chosen, wrong


def _select(section: str, name: Any) -> type[BaseModel]:
    if not isinstance(name, str):  # absent or no text: the validator says so
        return _lenient(_any_branch(section))
    if section in NAMED:
        return schema.branch(NAMED[section], name)
    table = TABLES[section]
    if name in table:
        return table[name]
    near = catalog.suggest(name, tuple(table))
    hint = f'did you mean "{near}"?  ' if near else ""
    raise NotFound(
        f"{name!r} is not {_article(_WORDS[section])}", hint=f"{hint}there are {', '.join(table)}"
    )


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _any_branch(section: str) -> type[BaseModel]:
    return NAMED[section] if section in NAMED else next(iter(TABLES[section].values()))


@cache
def _lenient(cls: type[BaseModel]) -> type[BaseModel]:
    """A section class that accepts any name and does not mind keys it does not know."""
    loose = type(
        cls.__name__,
        (cls,),
        {"model_config": ConfigDict(extra="ignore"), "__module__": cls.__module__},
    )
    return cast("type[BaseModel]", create_model(cls.__name__, __base__=loose, name=(str, ...)))


def recipe_type(kind: Kind, chosen: Mapping[str, type[BaseModel]]) -> type[schema.Recipe]:
    """The recipe class with the sections that have a name narrowed to the chosen ones. All of those
    are required.
    """
    return _narrowed(
        kind,
        tuple(
            (section, cls)
            for section, cls in chosen.items()
            if section in NAMED or section in TABLES
        ),
    )


@cache
def _narrowed(kind: Kind, chosen: tuple[tuple[str, type[BaseModel]], ...]) -> type[schema.Recipe]:
    fields: dict[str, Any] = {section: (cls, ...) for section, cls in chosen}
    base = recipe_class(kind)
    return create_model(base.__name__, __base__=base, **fields)


def complete(kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a recipe in the form that is checked: every section with its default name, a single
    teacher as a list of one.
    """
    named = dict(values)
    if isinstance(named.get("teacher"), dict):
        named["teacher"] = [named["teacher"]]
    for section in (*NAMED, *TABLES):
        name = default_name(section, kind)
        table = named.get(section, {})
        if name is not None and isinstance(table, dict):
            named[section] = {"name": name, **table}
    return named
