"""A teacher's answers on disk, one for each view of each training sample, filled as views come up.

Where augmentation is discrete (pad, crop and flip of 4 pixels have 162 views) a table of [samples,
views, classes] in float16 gives the very distribution of views that a live teacher sees: nothing is
approximated but the rounding to float16.

The file is a safetensors file that is written in place: "marks" I32 [n,V], 0 where nothing is
stored yet, else a checksum of the row, and rows [n,V,W] of 16-bit words (see row_format). A row is
written before its mark, and a mark that does not fit its row counts as nothing stored: so a
process may die at any moment and several may fill one table, each row being a function of the key
alone.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from kdcli.engine.teachers.row_format import Shape, marks
from kdcli.errors import CorruptFile
from kdcli.files import parse_json, safetensors_metadata, sync_folder, write_error
from kdcli.typed import strict

_CHUNK_BYTES = 1 << 26  # of a table that is read as a whole


class LogitTable:
    """The stored answers of one teacher to the views of one training set.

    Args:
        path: the file; made, with its room on the disk reserved, if it is not there.
        key: all that the content depends on, JSON-able: weights, data, views, arithmetic.
        shape: of the table.
        reserve: take its room on the disk at once; else as rows come, for a table that nobody
            keeps.

    Raises:
        DiskFull: there is no room for it. NotWritable: the folder cannot be written to.
        CorruptFile: the file is of another key or shape, or no table of ours.
    """

    def __init__(
        self, path: Path, key: Mapping[str, Any], shape: Shape, *, reserve: bool = True
    ) -> None:
        self.path = path
        self.shape = shape
        if not path.exists():
            _create(path, key, shape, reserve=reserve)
        start = _check(path, key, shape)
        self._marks = np.memmap(path, np.int32, "r+", start, (shape.rows,))
        after = start + self._marks.nbytes
        self._words = np.memmap(path, np.int16, "r+", after, (shape.rows, shape.words))

    @property
    def filled(self) -> int:
        """Rows that are stored, whole ones or not."""
        return int(np.count_nonzero(self._marks))

    def read(self, index: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B,K] float32 and a mask [B] bool of those that are stored, on the CPU. index,
        view [B] int64.
        """
        rows = self.rows(index, view).cpu().numpy()
        words, found = _whole(self._words[rows], self._marks[rows])
        if not bool(found.all()):
            words = words.where(found[:, None], 0)  # what is damaged need not even be classes
        return self.shape.unpack(words), found

    def write(self, index: Tensor, view: Tensor, logits: Tensor) -> Tensor:
        """Stores logits [B,K]; returns them as they will be read, [B,K] float32 on the CPU."""
        rows, words = self.rows(index, view).cpu().numpy(), self.shape.pack(logits).cpu()
        self._words[rows] = words.numpy()
        self._marks[rows] = marks(words).numpy()
        return self.shape.unpack(words)

    def missing(self) -> Tensor:
        """Rows that are not stored, or not whole, [m] int64: index * V + view. Reads all that is
        stored.
        """
        return torch.cat(
            [start + (~found).nonzero().flatten() for start, _, found in self._chunks()]
        )

    def left_out(self) -> tuple[float, float]:
        """The share of the probability that the classes which are not stored have together at
        temperature 1: its mean over the rows that are stored, and its largest; 0 where all are.
        """
        most, total, count = 0.0, 0.0, 0
        for _, words, found in self._chunks() if self.shape.top is not None else ():
            share = self.shape.rest(words[found])
            most = max(most, float(share.max())) if len(share) else most
            total, count = total + float(share.sum()), count + len(share)
        return total / max(count, 1), most

    def copy(self, device: torch.device) -> Tensor | None:
        """All rows as words [nV,W] int16 on a device, each checked once; None if some are missing.

        A row that is damaged is missing from now on.
        """
        copy = torch.empty((self.shape.rows, self.shape.words), dtype=torch.int16, device=device)
        full = True
        for start, words, found in self._chunks():
            copy[start : start + len(words)] = words
            if not bool(found.all()):
                self._marks[start : start + len(words)][~found.numpy()] = 0
                full = False
        return copy if full else None

    def rows(self, index: Tensor, view: Tensor) -> Tensor:
        """Numbers of the rows [B] int64 of samples and views [B] int64, on the same device."""
        return index * self.shape.views + view

    def _chunks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The whole table in parts: the first row, words [B,W] and which of them are stored [B]."""
        step = max(_CHUNK_BYTES // (2 * self.shape.words), 1)
        for start in range(0, self.shape.rows, step):
            yield (
                start,
                *_whole(
                    self._words[start : start + step].copy(),
                    self._marks[start : start + step].copy(),
                ),
            )


def _whole(
    words: np.ndarray[Any, np.dtype[np.int16]], stored: np.ndarray[Any, np.dtype[np.int32]]
) -> tuple[Tensor, Tensor]:
    """Words [B,W] and which of them are what was written [B]."""
    read, expected = torch.from_numpy(words), torch.from_numpy(stored)
    return read, (expected != 0) & (expected == marks(read))


def _header(key: Mapping[str, Any], shape: Shape) -> bytes:
    size = 4 * shape.rows
    name, kind = ("logits", "F16") if shape.top is None else ("top", "U16")
    content = {
        "__metadata__": {"kd_logits": json.dumps(dict(key), sort_keys=True)},
        name: {
            "dtype": kind,
            "shape": [shape.samples, shape.views, shape.words],
            "data_offsets": [size, shape.bytes],
        },
        "marks": {
            "dtype": "I32",
            "shape": [shape.samples, shape.views],
            "data_offsets": [0, size],
        },
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _create(path: Path, key: Mapping[str, Any], shape: Shape, *, reserve: bool) -> None:
    """Makes an empty table. Its room is reserved now: writing to a mapped file on a full disk would
    kill the process.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = _header(key, shape)
        with temporary.open("wb") as handle:
            handle.write(header)
            length = len(header) + shape.bytes
            if reserve:
                _reserve(handle, length)
            else:
                handle.truncate(length)
            handle.flush()
            os.fsync(handle.fileno())
        _place(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _reserve(handle: BinaryIO, length: int) -> None:
    """Takes the room of so many bytes, of which the first are written; the rest are zeros."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle.fileno(), 0, length)
    else:  # Windows and macOS: slower
        while (left := length - handle.tell()) > 0:
            handle.write(bytes(min(left, _CHUNK_BYTES)))


def _place(made: Path, path: Path) -> None:
    """Gives a table its name. Of several processes that make one at a time the first wins, and all
    of them fill it.
    """
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    # a file system without links: the last wins, and what went into the others is computed again
    except OSError:
        made.replace(path)


def _check(path: Path, key: Mapping[str, Any], shape: Shape) -> int:
    """Checks a table's header and length; returns the byte at which its rows begin.

    Raises:
        CorruptFile: another key, another shape or length, or no table.
    """
    hint = f"remove {path}: it is made again"
    try:
        stored = strict(dict[str, Any], parse_json(safetensors_metadata(path)["kd_logits"]))
    except (CorruptFile, KeyError, ValueError) as error:
        raise CorruptFile(f"{path} is no table of teacher logits, or damaged", hint=hint) from error
    expected = json.loads(json.dumps(dict(key)))
    if stored != expected:
        differing = sorted(
            name
            for name in stored.keys() | expected.keys()
            if stored.get(name) != expected.get(name)
        )
        raise CorruptFile(f"{path} holds other answers: {', '.join(differing)} differ", hint=hint)
    start = len(_header(key, shape))
    if path.stat().st_size != start + shape.bytes:
        raise CorruptFile(
            f"{path} has {path.stat().st_size} bytes instead of {start + shape.bytes}", hint=hint
        )
    return start
