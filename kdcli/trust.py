"""Whose code a Python file is: the user's, which runs, or a stranger's, which does not.

A recipe and the header of a checkpoint name files with code: `mine.py:tiny`. The user's are those
that the command line names (or a caller from Python), and those in a recipe that is the user's:
one that the command line names, one that ships with kd, or one that such a recipe names and that
lies in its folder or below. Whatever else names a file is a stranger, and its file runs only where
all files are trusted (`--trust`). `kdcli.catalog.load` asks here before it imports anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import Untrusted


@dataclass(frozen=True, slots=True)
class Trusted:
    """What may run: these files, by their full paths, or every file."""

    files: frozenset[Path] = frozenset()
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Stranger:
    """A file that the user has not named. by: who has, in words."""

    file: str
    by: str


_NOTHING = Trusted()
_trusted: ContextVar[Trusted] = ContextVar("_trusted", default=_NOTHING)
_namer: ContextVar[str] = ContextVar("_namer", default="a file that you have not named")


def current() -> Trusted:
    """What may run here, for a child process to adopt."""
    return _trusted.get()


def adopt(trusted: Trusted) -> None:
    """Lets a child process run what its parent may."""
    _trusted.set(trusted)


@contextmanager
def trusting(names: Iterable[object] = (), *, everything: bool = False) -> Iterator[None]:
    """Within it the files of some names may run besides those that may already.

    Args:
        names: such as mine.py:tiny; those of no file count for nothing.
        everything: every file may run.
    """
    before = _trusted.get()
    more = {found.resolve() for name in names if (found := python_file(name)) is not None}
    token = _trusted.set(Trusted(before.files | more, before.everything or everything))
    try:
        yield
    finally:
        _trusted.reset(token)


@contextmanager
def named_by(who: str) -> Iterator[None]:
    """Within it `who` has named the files that are loaded, as a refusal says it."""
    token = _namer.set(who)
    try:
        yield
    finally:
        _namer.reset(token)


def check(file: Path, shown: str, by: str | None = None) -> None:
    """Refuses a file that is not to run.

    Args:
        shown: the file as it was written. by: who named it; as `named_by` says, unless given.

    Raises:
        Untrusted: names the file, who named it, and what to do.
    """
    trusted = _trusted.get()
    if not trusted.everything and file.resolve() not in trusted.files:
        raise Untrusted(
            f"{shown} is code that {by or _namer.get()} asks for, not you: it runs only with "
            "--trust, if it is yours or you have read it",
            hint="--trust, or trust=True in Python",
        )


def refuse(strangers: Iterable[Stranger]) -> None:
    """Refuses files that are not to run, before any work is done.

    Raises:
        Untrusted: as `check`, of the first.
    """
    for stranger in strangers:
        check(Path(stranger.file), stranger.file, stranger.by)


# ---- names of files ------------------------------------------------------------------------------


_NUMBERS = (int, float)


def python_file(name: object) -> Path | None:
    """The file that a name such as mine.py:tiny stands for, or None."""
    file = name.partition(":")[0] if isinstance(name, str | Path) and (name := str(name)) else ""
    return Path(file) if file.endswith(".py") and "\0" not in file else None


def files_in(value: Any) -> tuple[str, ...]:
    """The Python files that the texts of a JSON-able value name, however deep they stand."""
    found, left = [], [value]
    while left:
        item = left.pop()
        if isinstance(item, Mapping):
            left += item.values()
        elif isinstance(item, list | tuple):
            left += [part for part in item if not isinstance(part, _NUMBERS)]  # there may be many
        elif (file := python_file(item)) is not None:
            found.append(str(file))
    return tuple(dict.fromkeys(found))


def option(*values: Any) -> str:
    """The end of a command about what some values name: " --trust" where Python files are among
    it.
    """
    return " --trust" if files_in(values) else ""


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder tree of the recipe that the user named. path: None for a recipe that nobody
    did: all that it names is a stranger's.
    """

    path: Path | None

    def holds(self, file: Path) -> bool:
        """Tells whether a file lies in the folder or below it, links followed."""
        return self.path is not None and file.resolve().is_relative_to(self.path.resolve())
