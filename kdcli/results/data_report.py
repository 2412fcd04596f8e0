"""What `kd check --data` finds in a dataset's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class DataProblem:
    """One thing that is wrong with a dataset, and what to do about it.

    kind: "file" that cannot be read, "part" that is missing, "class" without pictures, "format"
    that is not read, "size" of pictures, "layout" of folders, or another "dataset" that cannot be
    used. stops: whether a run is refused for it, and does not only say it. file: the one that is
    meant, if it is one.
    """

    kind: Literal["file", "part", "class", "format", "size", "layout", "dataset"]
    message: str
    hint: str
    stops: bool = True
    file: str | None = None


@dataclass(frozen=True, slots=True)
class DataReport:
    """A dataset whose files were all opened.

    train, val, test: pictures of each part; val is 0 where the dataset brings none. skipped: what
    other systems left behind. unread: files by the end of their names, of formats that are not
    read. notes: what a run says of how it reads these files.
    """

    data: str
    path: str | None
    classes: int
    train: int
    val: int
    test: int
    problems: tuple[DataProblem, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: int = 0
    unread: Mapping[str, int] = field(default_factory=dict)
