"""Stored teacher logits: what is found is what the teacher said, and what is damaged or another's is never used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch
from kdcli.engine.logit_cache import CachedTeacher, LogitTable, Shape, fill
from kdcli.errors import CorruptFile, DiskFull, Interrupted
from kdcli.files import sha256_json
from tests.unit.engine.conftest import Tiny

SHAPE = Shape(samples=6, views=4, classes=3)
KEY = {"teacher": "abc", "data": "def", "views": "crop 1"}


class Counting(Teacher):
    """Remembers how many images it was asked for."""

    def __init__(self) -> None:
        super().__init__(Tiny())
        self.seen = 0

    def __call__(self, batch, taps=()):
        self.seen += len(batch.y)
        return super().__call__(batch, taps)


def batch_of(index: torch.Tensor, view: torch.Tensor) -> Batch:
    """A picture that depends on sample and view."""
    x = (index * 10 + view).float().view(-1, 1, 1, 1) + torch.arange(36.0).view(1, 1, 6, 6) / 36
    return Batch(x, index % 3, index, view)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "folder" / "table.safetensors"


@pytest.fixture
def teacher() -> Counting:
    return Counting()


def test_answers_are_those_of_the_live_teacher_rounded_and_asked_once(path, teacher):
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))
    first = batch_of(torch.tensor([0, 3, 5]), torch.tensor([1, 0, 3]))
    expected = teacher(first).logits.half().float()
    teacher.seen = 0
    assert torch.equal(cached(first).logits, expected)
    assert torch.equal(cached(first).logits, expected)
    assert teacher.seen == 3
    again = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))  # as another process does
    assert torch.equal(again(first).logits, expected)
    assert teacher.seen == 3


def test_only_what_is_missing_is_computed(path, teacher):
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))
    cached(batch_of(torch.tensor([0, 1]), torch.tensor([0, 0])))
    teacher.seen = 0
    mixed = batch_of(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 0]))
    assert torch.equal(cached(mixed).logits, Teacher(teacher.network)(mixed).logits.half().float())
    assert teacher.seen == 1
    assert cached.table.filled == 3


def test_taps_are_the_live_teachers(path, teacher):
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))
    batch = batch_of(torch.tensor([0]), torch.tensor([0]))
    assert torch.equal(cached(batch, ("pooled",)).taps["pooled"], teacher(batch, ("pooled",)).taps["pooled"])
    assert cached.live is teacher
    assert cached.network is teacher.network


def test_filling_ahead_leaves_nothing_to_ask_and_goes_on_where_it_stopped(path, teacher):
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))

    def stop_at_ten(stored: int, total: int) -> None:
        assert total == 24
        if stored >= 10:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        fill(cached, batch_of, chunk=5, done=stop_at_ten)
    assert cached.table.filled == 10
    teacher.seen = 0
    fill(cached, batch_of, chunk=5, done=lambda stored, total: None)
    assert (teacher.seen, cached.table.filled) == (14, 24)
    fill(cached, batch_of, chunk=5, done=lambda stored, total: None)
    assert teacher.seen == 14


def test_it_is_a_safetensors_file(path, teacher):
    fill(CachedTeacher(teacher, LogitTable(path, KEY, SHAPE)), batch_of, chunk=24, done=lambda stored, total: None)
    with safe_open(path, framework="pt") as handle:
        logits, marks = handle.get_tensor("logits"), handle.get_tensor("marks")
    assert (logits.shape, logits.dtype, marks.shape) == ((6, 4, 3), torch.float16, (6, 4))
    everything = batch_of(torch.arange(24) // 4, torch.arange(24) % 4)
    assert torch.equal(logits.view(24, 3), teacher(everything).logits.half())
    assert bool((marks > 0).all())


def test_a_row_that_was_half_written_is_computed_again(path, teacher):
    table = LogitTable(path, KEY, SHAPE)
    cached = CachedTeacher(teacher, table)
    batch = batch_of(torch.tensor([2]), torch.tensor([2]))
    expected = cached(batch).logits
    table._logits[10, 1] += 1  # what a power cut may leave: the mark without the row
    _, found = table.read(batch.index, batch.view)
    assert not bool(found.any())
    assert torch.equal(cached(batch).logits, expected)


@pytest.mark.parametrize("what", ["teacher", "data", "views"])
def test_another_teacher_other_data_or_views_are_refused(path, what):
    LogitTable(path, KEY, SHAPE)
    with pytest.raises(CorruptFile, match=f"holds other answers: {what} differ"):
        LogitTable(path, {**KEY, what: "other"}, SHAPE)
    assert sha256_json({**KEY, what: "other"}) != sha256_json(KEY)


def test_a_damaged_file_is_refused_by_name(path):
    LogitTable(path, KEY, SHAPE)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CorruptFile, match="no table of teacher logits, or damaged") as caught:
        LogitTable(path, KEY, SHAPE)
    assert str(path) in caught.value.hint


def test_a_table_of_another_shape_is_refused(path):
    LogitTable(path, KEY, SHAPE)
    with pytest.raises(CorruptFile, match="bytes instead of"):
        LogitTable(path, KEY, Shape(7, 4, 3))


def test_without_room_nothing_is_made(path, monkeypatch):
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull):
        LogitTable(path, KEY, SHAPE)
    assert list(path.parent.iterdir()) == []


def test_what_a_killed_process_stored_stays(path, teacher):
    code = f"""
import os, torch
from pathlib import Path
from kdcli.engine.logit_cache import LogitTable, Shape
table = LogitTable(Path({str(path)!r}), {KEY!r}, Shape(6, 4, 3))
table.write(torch.tensor([1]), torch.tensor([2]), torch.tensor([[1.0, 2.0, 3.0]]).half())
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    rows, found = LogitTable(path, KEY, SHAPE).read(torch.tensor([1, 1]), torch.tensor([2, 3]))
    assert found.tolist() == [True, False]
    assert rows[0].tolist() == [1.0, 2.0, 3.0]
