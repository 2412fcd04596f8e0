"""Pictures that lie in larger files, tar shards and tables, each as a range of bytes.

A range can be read without what stands before it, so such pictures are shuffled, divided among
processes and gone on with in the middle of an epoch exactly as files of their own are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kdcli.errors import BadData

Range = tuple[int, int, int]  # number of the file, offset, size in bytes


class Container(Protocol):
    """Pictures by name that are no files of their own."""

    def __contains__(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """Bytes of a picture, or another number by which it is known again."""

    def read(self, name: str) -> bytes:
        """The content of a picture, as of an image file.

        Raises:
            BadData: it cannot be had.
        """


@dataclass(frozen=True, eq=False)
class Packed:
    """Where pictures lie in larger files.

    files: the larger ones. names: [n] of the pictures, each once. ranges: [n,3] int64, the number
    of the file, the offset in it, and the size, both in bytes.
    """

    files: tuple[Path, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)
    ranges: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.int64), repr=False)

    @classmethod
    def of(cls, files: Sequence[Path], ranges: Mapping[str, Range]) -> Packed:
        """From the range of each picture by its name."""
        at = torch.tensor(list(ranges.values()), dtype=torch.int64).view(-1, 3)
        return cls(tuple(files), tuple(ranges), at)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def size(self, name: str) -> int:
        """Bytes of a picture."""
        return int(self.ranges[self._rows[name], 2])

    def place(self, name: str) -> tuple[Path, int, int]:
        """The file that holds a picture, the offset in it and the size, both in bytes."""
        number, offset, size = self.ranges[self._rows[name]].tolist()
        return self.files[number], offset, size

    def read(self, name: str) -> bytes:
        """The content of a picture.

        Raises:
            BadData: the file that holds it cannot be read, or has become shorter.
        """
        path, offset, size = self.place(name)
        try:
            # opened each time: what is open does not go along into another process
            with path.open("rb", buffering=0) as file:
                file.seek(offset, os.SEEK_SET)
                content: bytes = file.read(size)
        except OSError as error:
            raise BadData(f"{path} cannot be read: {error.strerror}", hint=_AGAIN) from error
        if len(content) != size:
            raise BadData(f"{path} was cut off since it was looked at", hint=_AGAIN)
        return content


_AGAIN = "put the file back as it was"
