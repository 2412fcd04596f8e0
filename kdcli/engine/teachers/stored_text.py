"""A teacher of a text whose answers are stored as a whole, before anything is trained.

What a token is answered depends on those before it, so its answer cannot be computed when it comes
up: the text is read once from its beginning, in the parts side by side in which it is trained and
in windows of one length, and each row of the table is what the teacher says there. From then on
rows are looked up, whatever windows training reads. A filling that is stopped goes on where it was:
what the teacher remembers lies beside the table until that is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdcli.core.carried import Carried
from kdcli.core.types import Batch, Output
from kdcli.engine.teachers.cached import CachedTeacher
from kdcli.engine.teachers.fill import Divergence, by_temperature
from kdcli.errors import CorruptFile
from kdcli.files import write_atomic

_KEPT_SECONDS = 30.0  # between two states on disk


class InOrder(Protocol):
    """A text that can be read from its beginning."""

    @property
    def layout(self) -> tuple[int, int]:
        """Parts side by side, and tokens of a window."""

    @property
    def length(self) -> int:
        """Tokens of each part that follow another."""

    def in_order(self, start: int = 0) -> Iterator[Batch]:
        """Its windows from that number on, all parts in each."""


class StoredText(CachedTeacher):
    """A teacher that looks its answers up once all of them are there; until then it is asked."""

    _full = False

    @property
    def full(self) -> bool:
        """Whether every answer is stored."""
        self._full = self._full or self.table.filled == self.table.shape.rows
        return self._full

    def expect(self, batches: Sequence[Batch]) -> None:
        """Nothing is computed ahead: a window follows the one before it."""

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        if taps or not self.full:
            return self.asked(batch, taps)
        if self._copy is None and not self._lookups:
            self._copy = self._copied(batch.x.device)
        self._lookups += 1
        view = torch.zeros_like(batch.index)
        if self._copy is not None:
            words = self._copy.index_select(0, self.table.rows(batch.index, view))
            return Output(self.table.shape.unpack(words), {})
        logits, found = self.table.read(batch.index, view)
        if not bool(found.all()):
            raise CorruptFile(
                f"{self.table.path} has damaged rows", hint="remove it: it is made again"
            )
        return Output(logits.to(batch.x.device), {})


def fill_text(teacher: StoredText, text: InOrder, *, done: Callable[[int, int], None]) -> None:
    """Stores the teacher's answers to a whole text, from where an earlier filling was stopped.

    Args:
        done: told the rows stored and their number after each window; may raise to stop: what is
            stored stays, and so does what the teacher remembers.
    """
    table, total = teacher.table, teacher.table.shape.rows
    missing = table.missing()
    if not len(missing):
        _states_of(table.path).unlink(missing_ok=True)
        return
    streams, size = text.layout
    carried = Carried()
    whole = int((missing % text.length).min()) // size  # windows of which nothing is missing
    start = _begun(teacher, carried, whole)
    number, kept = start, time.perf_counter()
    try:
        for batch in text.in_order(start):
            with torch.no_grad(), carried.window(batch):
                logits = teacher.asked(batch).logits
            table.write(batch.index, torch.zeros_like(batch.index), logits)
            number += 1
            if time.perf_counter() - kept > _KEPT_SECONDS:
                _keep(table.path, carried, number)
                kept = time.perf_counter()
            done(min(streams * size * number, total), total)
    except BaseException:
        if number > start:
            _keep(table.path, carried, number)
        raise
    _states_of(table.path).unlink(missing_ok=True)


def _begun(teacher: StoredText, carried: Carried, whole: int) -> int:
    """The window that a filling goes on with, and what the teacher remembers before it.

    Args:
        whole: windows from the beginning of which nothing is missing.
    """
    path, device = _states_of(teacher.table.path), next(teacher.network.parameters()).device
    carried.place(teacher.network)
    if teacher.network.context is not None:  # it remembers nothing
        return whole
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            number = int(file.metadata()["window"])
            states = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except Exception:  # noqa: BLE001  there is none, or none that is whole: it is read again
        return 0
    if number > whole:
        return 0
    carried.load_state(states, device)
    return number


def _keep(table: Path, carried: Carried, number: int) -> None:
    states = {name: tensor.contiguous() for name, tensor in carried.state().items()}
    write_atomic(_states_of(table), lambda path: save_file(states, path, {"window": str(number)}))


def _states_of(table: Path) -> Path:
    """Where what the teacher remembers lies while a table is filled."""
    return table.with_suffix(".states.safetensors")


def divergence_of_text(
    teacher: StoredText, text: InOrder, *, temperatures: Sequence[float], most: int
) -> tuple[Divergence, ...]:
    """Stored answers beside the teacher's own, of the first `most` tokens in the order in which the
    text is read, or a window more.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    carried, count = Carried(), 0
    for batch in text.in_order():
        with torch.no_grad(), carried.window(batch):
            pairs.append((teacher.asked(batch).logits, teacher(batch).logits))
        count += len(batch.index)
        if count >= most:
            break
    return by_temperature(pairs, temperatures)
