"""Overrides of a recipe file: the environment, --set and the named flags."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli import catalog
from kdcli.errors import Diagnostic, UsageError, shortened
from kdcli.files import is_file, is_folder, parse_toml
from kdcli.recipe.reading import diagnostics
from kdcli.recipe.reading.layers import Layer, dotted
from kdcli.recipe.reading.toml_file import KeyPath, Origin
from kdcli.recipe.schema import TEACHER_SOURCES


@dataclass(frozen=True, slots=True)
class Flag:
    """A named option as typed, an alias of a recipe key: Flag("--epochs", "train.epochs", 3). A
    list under "teacher.checkpoint", or several such flags, means several teachers.
    """

    option: str
    key: str
    value: Any


def from_environment(environ: Mapping[str, str]) -> Layer:
    """KD_DATA_DIR is the only variable that a recipe listens to."""
    layer = Layer()
    if environ.get("KD_DATA_DIR"):
        layer.put(
            ("data", "root"),
            environ["KD_DATA_DIR"],
            Origin("KD_DATA_DIR", flag=f"KD_DATA_DIR={environ['KD_DATA_DIR']}"),
        )
    return layer


def from_mapping(values: Mapping[str, Any]) -> Layer:
    """Dotted keys with values, as a sweep or a notebook gives them.

    Raises:
        RecipeInvalid: a key is none, or two contradict each other.
    """
    layer = Layer()
    given = [
        (parse_key(key), value, Origin("values", flag=f"{key} = {value!r}"))
        for key, value in values.items()
    ]
    problems = [
        problem for path, value, origin in given if (problem := _put(layer, path, value, origin))
    ]
    _refuse_all(problems)
    return layer


def from_command_line(sets: Sequence[str], flags: Sequence[Flag]) -> Layer:
    """--set from left to right, then the flags; they may say the same thing twice, but not
    contradict each other.

    Raises:
        RecipeInvalid: with every override that is malformed or contradicted.
    """
    layer = Layer()
    problems: list[Diagnostic | None] = []
    for text in sets:
        origin = Origin("--set", flag=f"--set {shortened(text, 100)}")
        try:
            path, value = parse_set(text)
        except UsageError as error:
            problems.append(origin.diagnostic("--set", error.message, error.hint))
            continue
        problems.append(_put(layer, path, value, origin))
    taken = dict(layer.origins)
    problems += [_put_flag(layer, flag, taken) for flag in _collect_teachers(flags)]
    _refuse_all([problem for problem in problems if problem])
    return layer


def _put(layer: Layer, path: KeyPath, value: Any, origin: Origin) -> Diagnostic | None:
    try:
        layer.put(path, _plain(value), origin)
    except KeyError as error:
        return origin.diagnostic(
            dotted(path),
            f"{error.args[0]} is set to a plain value by another override",
            "give one of them",
        )
    return None


def _put_flag(layer: Layer, flag: Flag, taken: dict[KeyPath, Origin]) -> Diagnostic | None:
    path = parse_key(flag.key)
    value = _plain(flag.value)
    origin = Origin(flag.option, flag=f"{flag.option} {shortened(_shown(value), 100)}")
    earlier, there = taken.get(path), layer.get(*path)
    if flag.key == "teacher" and isinstance(there, dict) and _fit(there, value):
        value = [{**there, **table} for table in value]  # a --set is of each of them
    elif earlier is not None and there != value:
        return origin.diagnostic(
            flag.key, f"{origin.flag} and {earlier.flag} disagree", "give one of them"
        )
    taken[path] = origin
    return _put(layer, path, value, origin)


def _collect_teachers(flags: Sequence[Flag]) -> list[Flag]:
    """Several --teacher become one list of tables; a single one stays a key, so that it can be
    compared with a --set. A --teacher-classes is the class map of each of several, and what --set
    says of the teacher is of each too.
    """
    named = [flag for flag in flags if flag.key == "teacher.checkpoint"]
    paths = [
        path
        for flag in named
        for path in (flag.value if isinstance(flag.value, list | tuple) else [flag.value])
    ]
    others = [flag for flag in flags if flag.key != "teacher.checkpoint"]
    if len(paths) < 2:
        return [
            *others,
            *(Flag(named[0].option, f"teacher.{_source(path)}", path) for path in paths),
        ]
    given = next((flag.value for flag in others if flag.key == "teacher.classes"), None)
    classes = {} if given is None else {"classes": given}
    tables = [{_source(path): str(path), **classes} for path in paths]
    return [
        *(flag for flag in others if flag.key != "teacher.classes"),
        Flag(named[0].option, "teacher", tables),
    ]


def _fit(there: Mapping[str, Any], tables: list[dict[str, Any]]) -> bool:
    """Tells whether what --set says of [teacher] can be of each of several: it names none, and no
    other class map.
    """
    return not set(TEACHER_SOURCES) & there.keys() and all(
        table.get(key, value) == value for table in tables for key, value in there.items()
    )


def _source(teacher: Any) -> str:
    """The key of [teacher] that a --teacher means: the name of a network that comes with weights,
    such as hf/./my-vit or mine.py:net, or a checkpoint.
    """
    text = str(teacher)
    if is_folder(text) or is_file(text):
        return "checkpoint"
    libraries = (each[:-1] for each in catalog.entries("model") if each.endswith("/*"))
    named = text.startswith(tuple(libraries)) or ".py:" in text
    return "name" if named else "checkpoint"


def _plain(value: Any) -> Any:
    """A Python value as TOML would give it."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(
            str(next(iter(item.values()))) if isinstance(item, dict) else str(item)
            for item in value
        )
    return str(value)


def parse_key(key: str) -> tuple[str, ...]:
    """A dotted key as its parts, by TOML's own rules.

    Raises:
        UsageError: it is not a key.
    """
    try:
        table: Any = parse_toml(f"{key.strip()} = 0")
    except ValueError as error:
        raise UsageError(
            f"{shortened(key.strip(), 60)!r} is not a key",
            hint="write it as SECTION.KEY, for example train.epochs",
        ) from error
    parts: list[str] = []
    while isinstance(table, dict):
        name, table = next(iter(table.items()))
        parts.append(name)
    return tuple(parts)


def parse_set(text: str) -> tuple[tuple[str, ...], Any]:
    """KEY=VALUE as (parts of the key, value). The value is TOML; what is not TOML is a string.

    Raises:
        UsageError: there is no key or no equals sign.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f"{shortened(text, 60)!r} does not say what to set",
            hint="write --set KEY=VALUE, for example --set train.epochs=3",
        )
    path = parse_key(key)
    try:
        parsed = parse_toml(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return path, raw.strip()
    except ValueError as error:
        raise UsageError(
            f"{shortened(text, 60)!r} cannot be read: {str(error).partition(' (at')[0].lower()}",
            hint="write --set KEY=VALUE, for example --set train.epochs=3",
        ) from error
    return path, parsed["value"] if parsed.keys() == {"value"} else raw.strip()


def _refuse_all(problems: Sequence[Diagnostic]) -> None:
    if problems:
        raise diagnostics.refuse("the overrides", problems)
