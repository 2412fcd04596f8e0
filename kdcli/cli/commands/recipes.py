"""Shipped recipes: list, read, or take a copy to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli import completion
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.text import columns
from kdcli.errors import NotWritable, UsageError

NAME = "recipes"
EXAMPLES = """
kd recipes ls
kd recipes show quickstart
kd recipes cp quickstart my.toml
"""

ShippedName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name of a shipped recipe.",
        show_default=False,
        autocompletion=completion.shipped,
    ),
]


@dataclass(frozen=True, slots=True)
class RecipeItem:
    """A shipped recipe. kind: which command takes it; "base" files are only there to be
    extended.
    """

    name: str
    kind: str
    summary: str


@dataclass(frozen=True, slots=True)
class RecipeText:
    """A shipped recipe in full."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class RecipeCopy:
    """A copied recipe: where it went. also: files that it extends or names, copied beside it."""

    path: str
    also: tuple[str, ...] = ()


def ls(env: Environment) -> Outcome:
    """List the recipes that ship with kd."""
    from kdcli.recipe import shipped

    items = [
        RecipeItem(found.name, found.kind, found.summary)
        for found in shipped.ls()
        if found.kind != "base"
    ]
    rows = columns([(item.name, item.kind, item.summary) for item in items])
    folders = [item.name.rpartition("/")[0] for item in items]
    blanks = [
        [""] if place and folders[place - 1] != folder else []
        for place, folder in enumerate(folders)
    ]
    spaced = [line for blank, row in zip(blanks, rows, strict=True) for line in (*blank, row)]
    env.write_rows(
        [*spaced, ""], f"  {len(items)} recipes · kd recipes show NAME · kd recipes cp NAME"
    )
    return Outcome(items)


def show(env: Environment, name: ShippedName) -> Outcome:
    """Print a shipped recipe."""
    from kdcli.recipe import shipped

    text = shipped.find(name).read_text(encoding="utf-8")
    env.write(text)
    return Outcome(RecipeText(name, text))


def cp(
    env: Environment,
    name: ShippedName,
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="File or folder to copy to.")
    ] = Path(),
) -> Outcome:
    """Copy a shipped recipe, to change it. What it extends or names comes along, unless it is there
    already.
    """
    from kdcli.recipe import shipped

    source = shipped.find(name)
    target = dest / source.name if dest.is_dir() else dest
    if target.exists():
        raise UsageError(
            f"{target} exists already", hint=f"choose another name: kd recipes cp {name} OTHER.toml"
        )
    companions = [path for path in _companions(source) if not (target.parent / path.name).exists()]
    _copy(source, target)
    for path in companions:
        _copy(path, target.parent / path.name)
    also = tuple(str(target.parent / path.name) for path in companions)
    kind = next(found.kind for found in shipped.ls() if found.path == source)
    env.report(f"copied to {target}", f"  (with {', '.join(also)})" if also else "")
    env.report(
        f"  next  kd {kind} {target}"
        if kind != "base"
        else f'  next  write extends = "{target.name}" in a recipe beside it'
    )
    return Outcome(RecipeCopy(str(target), also))


def _companions(source: Path) -> list[Path]:
    """Recipes in the folder of a file that it names, and those that they name in turn. What it
    names elsewhere ships with kd and is found from anywhere.
    """
    import tomllib

    found: dict[Path, None] = {}
    left = [source]
    while left:
        content = tomllib.loads(left.pop().read_text(encoding="utf-8"))
        for name in _recipes_named(content):
            path = source.parent / name
            if "/" not in name and path.is_file() and path not in found:
                found[path] = None
                left.append(path)
    return [path for path in found if path != source]


def _recipes_named(value: object) -> Iterator[str]:
    """The names of recipes anywhere in a file's values: extends, base, teacher.recipe ..."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _recipes_named(item)
    elif isinstance(value, list):
        for item in value:
            yield from _recipes_named(item)
    elif isinstance(value, str) and value.endswith(".toml"):
        yield value


def _copy(source: Path, target: Path) -> None:
    import shutil

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise NotWritable(
            f"cannot write {target}: {error.strerror}", hint="choose another destination"
        ) from error


COMMANDS = (
    ("ls", ls, "kd recipes ls"),
    ("show", show, "kd recipes show quickstart"),
    ("cp", cp, "kd recipes cp quickstart my.toml\nkd recipes cp quickstart recipes-of-mine/"),
)
