"""A TOML file as read: its values, and where each of them stands, so that errors can point there.

The standard library parses TOML but forgets the places. The scanner below runs on text that tomllib
has read, so it has to find boundaries only, never to judge.
"""

from __future__ import annotations

import functools
import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kdcli.errors import Diagnostic, NotFound, RecipeInvalid, Where
from kdcli.files import MAX_RECIPE_BYTES, parse_toml
from kdcli.recipe import shipped

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
KeyPath = tuple[str | int, ...]
_BLANK = re.compile(r"[ \t]*")
_FILLER = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # up to two quotes may stand right before the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a value. label: what `kd check` prints. at: its key and value in a file. flag:
    the override that set it. stranger: whether the user has named neither the value nor its file
    (kdcli.trust).
    """

    label: str
    file: str | None = None
    at: Span | None = None
    lines: tuple[str, ...] = ()
    flag: str | None = None
    stranger: bool = False

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
    """One TOML file. shown: its name in messages. spans: the places of its keys. stranger: whether
    it is not the user's.
    """

    path: Path
    shown: str
    values: dict[str, Any]
    spans: Mapping[KeyPath, Span]
    lines: tuple[str, ...]
    stranger: bool = False

    def origin(self, path: KeyPath) -> Origin:
        """The place of a key path in this file, or of the nearest table around it where the path
        itself is absent.
        """
        while path and path not in self.spans:
            path = path[:-1]
        span = self.spans.get(path)
        label = f"{self.shown}:{span.key.line}" if span else self.shown
        return Origin(label, self.shown, span, self.lines, stranger=self.stranger)


def point(file: str, lines: tuple[str, ...], place: Place, diagnostic: Diagnostic) -> Diagnostic:
    """The diagnostic, placed in a file."""
    where = Where(file, place.line, place.column, diagnostic.key or None)
    source = lines[place.line - 1] if place.line <= len(lines) else ""
    return replace(diagnostic, where=where, source_line=source, length=place.length)


def shown_as(path: Path) -> str:
    """The name of a file in messages: shipped ones as recipes/NAME.toml wherever they are
    installed, others as they were given.
    """
    name = shipped.name_of(path)
    return str(path) if name is None else f"recipes/{name}.toml"


def read(path: Path) -> Document:
    """Reads a TOML file.

    Raises:
        NotFound: no such file. RecipeInvalid: not text, or not TOML; placed where the parser
            stopped.
    """
    shown = shown_as(path)
    try:
        with path.open("rb") as handle:
            content = handle.read(MAX_RECIPE_BYTES + 1)
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(
            f"no recipe at {path}", hint="kd recipes ls lists what ships with kd"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeInvalid(
            f"{shown} cannot be read as text: {error}",
            [Diagnostic("", "not a text file", None, Where(shown))],
        ) from error
    if len(content) > MAX_RECIPE_BYTES:
        raise RecipeInvalid(
            f"{shown} is too large for a recipe",
            [Diagnostic("", f"more than {MAX_RECIPE_BYTES:,} bytes", None, Where(shown))],
        )
    lines = tuple(text.split("\n"))
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise RecipeInvalid(
            f"{shown} is not valid TOML", [_syntax(shown, lines, str(error))]
        ) from error
    return Document(path, shown, values, locate(text), lines)


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


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both from 1, and how many characters of that line are covered."""

    line: int
    column: int
    length: int


@dataclass(frozen=True, slots=True)
class Span:
    """The places of a key and of its value. A table's value is its header; an array element's key
    is its value.
    """

    key: Place
    value: Place


@functools.lru_cache(maxsize=64)  # every cell of a sweep reads the same files
def locate(text: str) -> Mapping[KeyPath, Span]:
    """The span of every key path in a valid TOML text; elements of arrays are numbered from 0."""
    return MappingProxyType(_Scanner(text).run())


@dataclass
class _Scanner:
    text: str
    at: int = 0
    spans: dict[KeyPath, Span] = field(default_factory=dict)
    table: KeyPath = ()
    counts: dict[KeyPath, int] = field(default_factory=dict)  # of [[arrays of tables]]
    starts: list[int] = field(default_factory=list)

    def run(self) -> dict[KeyPath, Span]:
        self.starts = [0, *(match.end() for match in re.finditer("\n", self.text))]
        self.skip(_FILLER)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                self.header()
            else:
                self.pair(self.table)
            self.skip(_FILLER)
        return self.spans

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match.group() if match else ""

    def place(self, start: int, end: int) -> Place:
        """A value over several lines is covered to the end of its first line."""
        line = bisect_right(self.starts, start)
        stop = self.text.find("\n", start, end)
        last = end if stop < 0 else stop
        return Place(
            line, start - self.starts[line - 1] + 1, max(1, len(self.text[start:last].rstrip()))
        )

    def key(self) -> list[tuple[str, Place]]:
        """A dotted key as its parts, each with its place."""
        parts: list[tuple[str, Place]] = []
        while True:
            self.skip(_BLANK)
            start = self.at
            raw = self.skip(_STRING) or self.skip(_BARE_KEY)
            name = raw if raw[0] not in "\"'" else next(iter(tomllib.loads(f"{raw} = 0")))
            parts.append((name, self.place(start, self.at)))
            self.skip(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def header(self) -> None:
        double = self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        path: KeyPath = ()
        parts = self.key()
        for number, (name, place) in enumerate(parts):
            path = (*path, name)
            self.spans.setdefault(path, Span(place, place))
            if double and number == len(parts) - 1:
                self.counts[path] = self.counts.get(path, -1) + 1
            if path in self.counts:
                path = (*path, self.counts[path])
                self.spans.setdefault(path, Span(place, place))
        self.table = path
        self.at += 2 if double else 1

    def pair(self, table: KeyPath) -> None:
        """KEY = VALUE under a table."""
        path = table
        place = Place(1, 1, 1)
        for name, place in self.key():
            path = (*path, name)
            self.spans.setdefault(path, Span(place, place))
        self.at += 1  # the equals sign
        self.skip(_BLANK)
        self.spans[path] = Span(place, self.value(path))

    def value(self, path: KeyPath) -> Place:
        start = self.at
        if self.text[start] == "[":
            self.array(path)
        elif self.text[start] == "{":
            self.inline_table(path)
        elif not self.skip(_STRING):
            self.at = start + len(self.skip(_SCALAR).rstrip())
        return self.place(start, self.at)

    def array(self, path: KeyPath) -> None:
        self.at += 1
        number = 0
        self.skip(_FILLER)
        while self.text[self.at] != "]":
            place = self.value((*path, number))
            self.spans[*path, number] = Span(place, place)
            number += 1
            self.separator()
        self.at += 1

    def inline_table(self, path: KeyPath) -> None:
        self.at += 1
        self.skip(_FILLER)
        while self.text[self.at] != "}":
            self.pair(path)
            self.separator()
        self.at += 1

    def separator(self) -> None:
        self.skip(_FILLER)
        if self.text[self.at] == ",":
            self.at += 1
            self.skip(_FILLER)
