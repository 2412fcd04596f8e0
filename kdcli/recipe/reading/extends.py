"""A recipe file over all that it extends, as one layer."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli import trust
from kdcli.errors import NotFound, RecipeInvalid
from kdcli.recipe import shipped
from kdcli.recipe.reading import toml_file
from kdcli.recipe.reading.layers import Kind, Layer, lay
from kdcli.recipe.reading.toml_file import Document

MAX_EXTENDS = 20


def from_file(path: Path, kind: Kind, tree: trust.Folder | None = None) -> Layer:
    """A recipe file over all that it extends.

    Args:
        tree: where recipes are the user's, besides those that ship; the file's own folder unless
            given. The values of others know that they are a stranger's.

    Raises:
        NotFound: no such file. RecipeInvalid: one of the files is not TOML, or cannot be extended.
    """
    return _from_file(path, kind, (), tree or trust.Folder(path.parent))


def _from_file(path: Path, kind: Kind, children: tuple[Path, ...], tree: trust.Folder) -> Layer:
    read = replace(toml_file.read(path), stranger=is_stranger(path, tree))
    own = _as_layer(read)
    named = own.values.pop("extends", None)
    if named is None:
        return own
    children = (*children, path)
    below = _from_file(parent(read, named, children, "recipe"), kind, children, tree)
    return lay(below, own, kind)


def is_stranger(recipe: Path, tree: trust.Folder) -> bool:
    """Tells whether a recipe file is not the user's: it neither lies in the folder tree nor ships
    with kd.
    """
    return not tree.holds(recipe) and shipped.name_of(recipe) is None


def parent(read: Document, named: Any, children: tuple[Path, ...], what: str) -> Path:
    """The file that a file extends.

    Args:
        read: the file. named: its `extends`.
        children: the file itself, after those that extend it. what: "recipe" or "sweep".

    Raises:
        RecipeInvalid: there is no such file, or it cannot be extended.
    """

    def refuse(problem: str, hint: str | None = None) -> RecipeInvalid:
        return RecipeInvalid(
            f"1 problem in {read.shown}",
            [read.origin(("extends",)).diagnostic("extends", problem, hint)],
        )

    if not isinstance(named, str):
        raise refuse(f"must be the path of one {what}, got {named!r}")
    try:
        found = shipped.locate(named, beside=read.path.parent)
    except NotFound as error:
        raise refuse(f"there is no {what} {named!r}", error.hint) from error
    if len(children) >= MAX_EXTENDS:
        raise refuse(f"more than {MAX_EXTENDS} {what}s extend each other", "write it in fewer")
    if found.resolve() in {child.resolve() for child in children}:
        chain = " -> ".join(toml_file.shown_as(child) for child in (*children, found))
        raise refuse(f"the {what}s extend each other in a circle: {chain}")
    return found


def _as_layer(read: Document) -> Layer:
    layer = Layer(copy.deepcopy(read.values))
    layer.origins.update({path: read.origin(path) for path in read.spans})
    teacher = layer.values.get("teacher")
    if isinstance(teacher, list) and len(teacher) == 1:  # [[teacher]] once is [teacher]
        layer.values["teacher"] = teacher[0]
        inner = {
            path: origin for path, origin in layer.origins.items() if path[:2] == ("teacher", 0)
        }
        layer.origins.update({("teacher", *path[2:]): origin for path, origin in inner.items()})
    for table in _tables(layer.values.get("teacher")):
        if isinstance(table.get("recipe"), str):
            table["recipe"] = portable(table["recipe"], read.path.parent)
    report = layer.values.get("report")
    if isinstance(report, dict) and str(report.get("reference")).endswith(".toml"):
        report["reference"] = portable(report["reference"], read.path.parent)
    return layer


def _tables(value: Any) -> list[dict[str, Any]]:
    return [
        table
        for table in (value if isinstance(value, list) else [value])
        if isinstance(table, dict)
    ]


def portable(recipe: str, beside: Path) -> str:
    """A recipe's path as it reads from the current folder; shipped ones as recipes/NAME.toml, one
    that is not there as it is.
    """
    try:
        return toml_file.shown_as(shipped.locate(recipe, beside=beside))
    except NotFound:
        return recipe
