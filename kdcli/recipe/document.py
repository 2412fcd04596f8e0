"""Recipe files as read: their values, and where each of them stands, so that every later complaint
can point at it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.errors import Diagnostic, NotFound, RecipeInvalid, Where
from kdcli.recipe import positions, shipped
from kdcli.recipe.positions import Place, Span

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from. label: what `kd check` prints. at: its key and value in a file.
    flag: the override that set it.
    """

    label: str
    file: str | None = None
    at: Span | None = None
    lines: tuple[str, ...] = ()
    flag: str | None = None

    def diagnostic(
        self, key: str, problem: str, hint: str | None = None, *, on_key: bool = False
    ) -> Diagnostic:
        """A problem placed here: at the value, or at the key where the key itself is wrong."""
        if self.at is None or self.file is None:
            where = Where(file=self.file, key=key, flag=self.flag)
            return Diagnostic(key, problem, hint, where)
        place = self.at.key if on_key else self.at.value
        return point(self.file, self.lines, place, Diagnostic(key, problem, hint))


@dataclass(frozen=True, slots=True)
class Document:
    """One TOML file. shown: its name in messages. spans: the places of its keys."""

    path: Path
    shown: str
    values: dict[str, Any]
    spans: Mapping[positions.Path, Span]
    lines: tuple[str, ...]

    def origin(self, path: positions.Path) -> Origin:
        """Where a key path of this file stands; the nearest table around it where the path itself
        is absent.
        """
        while path and path not in self.spans:
            path = path[:-1]
        span = self.spans.get(path)
        label = f"{self.shown}:{span.key.line}" if span else self.shown
        return Origin(label, self.shown, span, self.lines)


def point(file: str, lines: tuple[str, ...], place: Place, diagnostic: Diagnostic) -> Diagnostic:
    """The diagnostic, placed in a file."""
    where = Where(file, place.line, place.column, diagnostic.key or None)
    source = lines[place.line - 1] if place.line <= len(lines) else ""
    return replace(diagnostic, where=where, source_line=source, length=place.length)


def shown_as(path: Path) -> str:
    """How messages name a file: shipped ones as recipes/NAME.toml wherever they are installed,
    others as they were given.
    """
    name = shipped.name_of(path)
    return str(path) if name is None else f"recipes/{name}.toml"


def read(path: Path) -> Document:
    """Read a TOML file.

    Raises:
        NotFound: no such file. RecipeInvalid: not text, or not TOML; placed where the parser
            stopped.
    """
    shown = shown_as(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(
            f"no recipe at {path}", hint="kd recipes ls lists what ships with kd"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeInvalid(
            f"{shown} cannot be read as text: {error}",
            [Diagnostic("", "not a text file", None, Where(shown))],
        ) from error
    lines = tuple(text.replace("\r\n", "\n").split("\n"))
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeInvalid(
            f"{shown} is not valid TOML", [_syntax(shown, lines, str(error))]
        ) from error
    return Document(path, shown, values, positions.locate(text.replace("\r\n", "\n")), lines)


def _syntax(shown: str, lines: tuple[str, ...], message: str) -> Diagnostic:
    at = _AT.search(message)
    line, column = (
        (int(at[1]), int(at[2]))
        if at and at[1]
        else (max(len(lines), 1), len(lines[-1]) + 1 if lines else 1)
    )
    problem = _AT.sub("", message)
    hint = (
        "strings need quotes, and a list its closing bracket"
        if problem == "Invalid value"
        else None
    )
    return point(
        shown,
        lines,
        Place(line, column, 1),
        Diagnostic("", f"not valid TOML: {problem[:1].lower()}{problem[1:]}", hint),
    )
