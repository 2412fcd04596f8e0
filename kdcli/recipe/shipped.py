"""The recipes that ship with kd: in the wheel, or in the repository where kd is installed from a
checkout.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcli import catalog
from kdcli.errors import NotFound
from kdcli.files import is_file, is_folder

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Shipped:
    """A shipped file. name: what `kd recipes show` takes. kind: "base" files are only there to be
    extended.
    """

    name: str
    path: Path
    kind: Literal["train-teacher", "distill", "sweep", "base"]
    summary: str


@functools.cache  # asked for every file that a cell of a sweep extends
def folder() -> Path:
    """The folder of the shipped recipes: inside an installed wheel, else beside the package."""
    inside = _PACKAGE / "_recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def ls() -> tuple[Shipped, ...]:
    """All of them, quickstarts first, then by name."""
    paths = sorted(folder().rglob("*.toml"), key=lambda path: (path.parent != folder(), path))
    return tuple(_describe(path) for path in paths)


def name_of(path: Path) -> str | None:
    """The name under which a file ships ("cifar100/kd-resnet56-resnet20"), or None where it does
    not.
    """
    full = path.resolve()
    return (
        full.relative_to(folder()).with_suffix("").as_posix()
        if full.is_relative_to(folder())
        else None
    )


def find(name: str) -> Path:
    """The shipped file of a name: "quickstart", "quickstart.toml", "recipes/quickstart.toml" and
    "cifar100/skd" alike, and "../cifar100/skd.toml", as the copy of a shipped file goes on to say.

    Raises:
        NotFound: nothing of that name ships; the hint names the nearest one.
    """
    plain = name.removeprefix("../").removeprefix("recipes/").removesuffix(".toml")
    wanted = folder() / f"{plain}.toml"
    if is_file(wanted) and name_of(wanted) is not None:
        return wanted
    names = tuple(found for path in folder().rglob("*.toml") if (found := name_of(path)))
    near = catalog.suggest(plain, names)
    if is_folder(name):
        raise NotFound(
            f"{name} is a folder, not a recipe",
            hint=f"of pictures: kd check --data {name} opens every file of it",
        )
    raise NotFound(
        f"no recipe at {name}",
        hint=f"did you mean {near!r}?  (kd recipes ls)"
        if near
        else "kd recipes ls lists what ships with kd",
    )


def locate(name: str, *, beside: Path | None = None) -> Path:
    """The recipe that a user means: beside the file that names it, in the current folder, or
    shipped, in this order.

    Raises:
        NotFound: it is in none of these places.
    """
    for candidate in (beside / name if beside else None, Path(name)):
        if candidate is not None and is_file(candidate):
            return candidate
    return find(name)


def is_sweep(keys: Iterable[str]) -> bool:
    """Tells a sweep from a recipe by its sections: one that extends another may have any of them
    alone.
    """
    return not {"axes", "set", "adjust", "table", "paper"}.isdisjoint(keys)


def _describe(path: Path) -> Shipped:
    text = path.read_text(encoding="utf-8")
    comments = (
        line.removeprefix("#").strip()
        for line in text.splitlines()
        if line.startswith("#") and not line.startswith("#:")
    )
    return Shipped(str(name_of(path)), path, _kind(text), next(comments, ""))


def _kind(text: str) -> Literal["train-teacher", "distill", "sweep", "base"]:
    keys = tomllib.loads(text).keys()
    if is_sweep(keys):
        return "sweep"
    if "model" in keys:
        return "train-teacher"
    return "distill" if {"student", "teacher", "method"} & keys else "base"
