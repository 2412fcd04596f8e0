"""Where each key and value of a TOML text stands: the standard library parses TOML but forgets the
places.

The text is known to be valid (tomllib has read it), so the scanner only has to find boundaries,
never to judge.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

Path = tuple[str | int, ...]

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


def locate(text: str) -> Mapping[Path, Span]:
    """The span of every key path in a valid TOML text; elements of arrays are numbered from 0."""
    return _Scanner(text).run()


@dataclass
class _Scanner:
    text: str
    at: int = 0
    spans: dict[Path, Span] = field(default_factory=dict)
    table: Path = ()
    counts: dict[Path, int] = field(default_factory=dict)  # of [[arrays of tables]]
    starts: list[int] = field(default_factory=list)

    def run(self) -> dict[Path, Span]:
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
            name = next(iter(tomllib.loads(f"{raw} = 0")))
            parts.append((name, self.place(start, self.at)))
            self.skip(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def header(self) -> None:
        double = self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        path: Path = ()
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

    def pair(self, table: Path) -> None:
        """KEY = VALUE under a table."""
        path = table
        place = Place(1, 1, 1)
        for name, place in self.key():
            path = (*path, name)
            self.spans.setdefault(path, Span(place, place))
        self.at += 1  # the equals sign
        self.skip(_BLANK)
        self.spans[path] = Span(place, self.value(path))

    def value(self, path: Path) -> Place:
        start = self.at
        if self.text[start] == "[":
            self.array(path)
        elif self.text[start] == "{":
            self.inline_table(path)
        elif not self.skip(_STRING):
            self.at = start + len(self.skip(_SCALAR).rstrip())
        return self.place(start, self.at)

    def array(self, path: Path) -> None:
        self.at += 1
        number = 0
        self.skip(_FILLER)
        while self.text[self.at] != "]":
            place = self.value((*path, number))
            self.spans[*path, number] = Span(place, place)
            number += 1
            self.separator()
        self.at += 1

    def inline_table(self, path: Path) -> None:
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
