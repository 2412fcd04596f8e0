"""A teacher's answers on disk, one for each view of each training sample, filled as views come up.

Where augmentation is discrete (pad, crop and flip of 4 pixels have 162 views) a table of [samples, views, classes] in float16
gives the very distribution of views that a live teacher sees: nothing is approximated but the rounding to float16.

The file is a safetensors file that is written in place: "logits" F16 [n,V,K] and "marks" U8 [n,V], 0 where nothing is stored yet,
else a checksum of the row. A row is written before its mark, and a mark that does not fit its row counts as nothing stored: so a
process may die at any moment and several may fill one table, each row being a function of the key alone.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output
from kdcli.errors import CorruptFile
from kdcli.files import safetensors_metadata, sync_folder, write_error

_MARKS = 255  # marks run from 1 to this


@dataclass(frozen=True, slots=True)
class Shape:
    """n samples, V views of each, K classes."""

    samples: int
    views: int
    classes: int

    @property
    def rows(self) -> int:
        return self.samples * self.views

    @property
    def bytes(self) -> int:
        """Size of a table on disk, but for its header."""
        return self.rows * (2 * self.classes + 1)


class LogitTable:
    """The stored answers of one teacher to the views of one training set.

    Args:
        path: the file; made, with its room on the disk reserved, if it is not there.
        key: all that the content depends on, JSON-able: weights, data, views, arithmetic.
        shape: of the table.

    Raises:
        DiskFull: there is no room for it. NotWritable: the folder cannot be written to.
        CorruptFile: the file is of another key or shape, or no table of ours.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], shape: Shape) -> None:
        self.path = path
        self.shape = shape
        if not path.exists():
            _create(path, key, shape)
        start = _check(path, key, shape)
        size = shape.rows * shape.classes
        self._logits = np.memmap(path, np.float16, "r+", start, (shape.rows, shape.classes))
        self._marks = np.memmap(path, np.uint8, "r+", start + 2 * size, (shape.rows,))

    @property
    def filled(self) -> int:
        """Rows that are stored."""
        return int(np.count_nonzero(self._marks))

    def read(self, index: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B,K] float16 and a mask [B] bool of those that are stored, on the CPU. index, view [B] int64."""
        rows = self._rows(index, view)
        logits = self._logits[rows]
        marks = self._marks[rows]
        return torch.from_numpy(logits), torch.from_numpy((marks != 0) & (marks == _checksums(logits)))

    def write(self, index: Tensor, view: Tensor, logits: Tensor) -> None:
        """Store rows [B,K] float16 of the CPU."""
        rows, values = self._rows(index, view), logits.numpy()
        self._logits[rows] = values
        self._marks[rows] = _checksums(values)

    def missing(self) -> Tensor:
        """Rows that are not stored yet, [m] int64: index * V + view."""
        return torch.from_numpy(np.flatnonzero(self._marks == 0))

    def _rows(self, index: Tensor, view: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
        rows: np.ndarray[Any, np.dtype[np.int64]] = (index.cpu() * self.shape.views + view.cpu()).numpy()
        return rows


def _checksums(logits: np.ndarray[Any, np.dtype[np.float16]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A number from 1 to 255 for each row [B,K]; places count, so that a half-written row shows."""
    words = np.ascontiguousarray(logits).view(np.uint16).astype(np.uint64)
    places = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (words * places).sum(axis=1)
    marks: np.ndarray[Any, np.dtype[np.uint8]] = ((mixed >> np.uint64(40)) % np.uint64(_MARKS) + np.uint64(1)).astype(np.uint8)
    return marks


def _header(key: Mapping[str, Any], shape: Shape) -> bytes:
    size = 2 * shape.rows * shape.classes
    content = {
        "__metadata__": {"kd_logits": json.dumps(dict(key), sort_keys=True)},
        "logits": {"dtype": "F16", "shape": [shape.samples, shape.views, shape.classes], "data_offsets": [0, size]},
        "marks": {"dtype": "U8", "shape": [shape.samples, shape.views], "data_offsets": [size, size + shape.rows]},
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _create(path: Path, key: Mapping[str, Any], shape: Shape) -> None:
    """Make an empty table. Its room is reserved now: writing to a mapped file on a full disk would kill the process."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = _header(key, shape)
        with temporary.open("wb") as handle:
            handle.write(header)
            os.posix_fallocate(handle.fileno(), 0, len(header) + shape.bytes)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)  # of two processes that make one table the later wins; the other's rows are computed again
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check(path: Path, key: Mapping[str, Any], shape: Shape) -> int:
    """Where the rows begin.

    Raises:
        CorruptFile: another key, another shape or length, or no table.
    """
    hint = f"remove {path}: it is made again"
    try:
        stored = json.loads(safetensors_metadata(path)["kd_logits"])
    except (CorruptFile, KeyError, ValueError) as error:
        raise CorruptFile(f"{path} is no table of teacher logits, or damaged", hint=hint) from error
    if stored != json.loads(json.dumps(dict(key))):
        differing = sorted(name for name in stored.keys() | key.keys() if stored.get(name) != key.get(name))
        raise CorruptFile(f"{path} holds other answers: {', '.join(differing)} differ", hint=hint)
    start = len(_header(key, shape))
    if path.stat().st_size != start + shape.bytes:
        raise CorruptFile(f"{path} has {path.stat().st_size} bytes instead of {start + shape.bytes}", hint=hint)
    return start


class CachedTeacher(Teacher):
    """A teacher whose answers to training batches are looked up, and computed once where they are not there.

    All answers pass through float16, so they do not depend on whether a row was stored before. For training batches only: an
    index of another split is another image.

    Args:
        live: the teacher itself.
        table: its answers.
    """

    def __init__(self, live: Teacher, table: LogitTable) -> None:
        self._live = live
        self.table = table

    @property
    def network(self) -> Network:  # type: ignore[override]  # the teacher's own
        return self._live.network

    @property
    def live(self) -> Teacher:
        return self._live

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        if taps:
            return self._live(batch, taps)
        rows, found = self.table.read(batch.index, batch.view)
        if not bool(found.all()):
            absent = (~found).nonzero().flatten()
            rows[absent] = self._answer(_part(batch, absent.to(batch.index.device)))
        return Output(rows.to(batch.x.device).float(), {})

    def _answer(self, batch: Batch) -> Tensor:
        logits = self._live(batch).logits.half().cpu()
        self.table.write(batch.index, batch.view, logits)
        return logits


def _part(batch: Batch, places: Tensor) -> Batch:
    return batch if len(places) == len(batch.y) else Batch(batch.x[places], batch.y[places], batch.index[places], batch.view[places])


def fill(teacher: CachedTeacher, batch_of: Callable[[Tensor, Tensor], Batch], *, chunk: int, done: Callable[[int, int], None]) -> None:
    """Answer every view that is not stored yet, in the order of the table.

    Args:
        batch_of: index and view [B] int64 to a training batch.
        chunk: views at a time.
        done: told the rows stored and their number after each chunk; may raise to stop, what is stored stays.
    """
    views = teacher.table.shape.views
    missing = teacher.table.missing()
    total = teacher.table.shape.rows
    for start in range(0, len(missing), chunk):
        rows = missing[start : start + chunk]
        teacher(batch_of(rows // views, rows % views))
        done(total - len(missing) + min(start + chunk, len(missing)), total)
