"""Stored teacher logits: what is found is what the teacher said, and what is damaged or another's
is never used.
"""

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
from kdcli.engine.teachers.cached import CachedTeacher
from kdcli.engine.teachers.fill import divergence, fill
from kdcli.engine.teachers.logit_table import LogitTable
from kdcli.engine.teachers.row_format import Shape
from kdcli.errors import CorruptFile, DiskFull, Interrupted
from kdcli.files import sha256_json
from tests.unit.engine.conftest import Tiny

SHAPE = Shape(samples=6, views=4, classes=3)
KEY = {"teacher": "abc", "data": "def", "views": "crop 1"}


class Counting(Teacher):
    """Remembers how many images it was asked for."""

    def __init__(self) -> None:
        super().__init__(Tiny())
        self.asked = 0

    def __call__(self, batch, taps=()):
        self.asked += len(batch.y)
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
    teacher.asked = 0
    assert torch.equal(cached(first).logits, expected)
    assert torch.equal(cached(first).logits, expected)
    assert teacher.asked == 3
    again = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))  # as another process does
    assert torch.equal(again(first).logits, expected)
    assert teacher.asked == 3


def test_who_lacks_nothing_asks_beside_a_rank_that_does(path, teacher):
    """A divided teacher answers all ranks or none."""
    others = [1, 0, 0]  # what another rank says, the last first: it may lack an answer too
    cached = CachedTeacher(
        teacher, LogitTable(path, KEY, SHAPE), agree=lambda number: max(number, others.pop())
    )
    batch = batch_of(torch.tensor([0, 1]), torch.tensor([0, 0]))
    first = cached(batch).logits
    assert teacher.asked == 2
    assert torch.equal(cached(batch).logits, first)
    assert teacher.asked == 3


def test_only_what_is_missing_is_computed(path, teacher):
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))
    cached(batch_of(torch.tensor([0, 1]), torch.tensor([0, 0])))
    teacher.asked = 0
    mixed = batch_of(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 0]))
    assert torch.equal(cached(mixed).logits, Teacher(teacher.network)(mixed).logits.half().float())
    assert teacher.asked == 1
    assert cached.table.filled == 3


def test_what_is_missing_of_several_minibatches_is_computed_at_once(path, teacher):
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))
    coming = [
        batch_of(torch.tensor([sample, sample + 1]), torch.tensor([2, 2])) for sample in (0, 2)
    ]
    cached.expect(coming)
    assert teacher.asked == 0  # nobody has asked for logits yet
    cached(coming[0])
    cached.expect(coming)
    assert teacher.asked == 4
    for batch in coming:
        assert torch.equal(
            cached(batch).logits, Teacher(teacher.network)(batch).logits.half().float()
        )
    assert teacher.asked == 4


def test_each_view_has_an_answer_of_its_own(path, teacher):
    """torchdistill keyed its stored answers by sample alone, so that epoch 2 got what was said of
    epoch 1's crop; removed in its #539.
    """
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))
    sample = torch.tensor([3])
    answers = [cached(batch_of(sample, torch.tensor([view]))).logits for view in range(4)]
    for view, answer in enumerate(answers):
        assert torch.equal(
            answer, teacher(batch_of(sample, torch.tensor([view]))).logits.half().float()
        )
    assert len({tuple(answer.flatten().tolist()) for answer in answers}) == 4


def test_the_largest_logits_are_the_same_whether_stored_before_or_not(path, teacher):
    cached = CachedTeacher(teacher, LogitTable(path, KEY, Shape(6, 4, 3, top=1)))
    batch = batch_of(torch.tensor([0, 3, 5]), torch.tensor([1, 0, 3]))
    first = cached(batch).logits
    assert teacher.asked == 3
    assert torch.equal(cached(batch).logits, first)
    assert teacher.asked == 3
    own = Teacher(teacher.network)(batch).logits
    torch.testing.assert_close(
        first.softmax(1).max(1).values, own.softmax(1).max(1).values, rtol=2e-3, atol=0
    )
    with safe_open(path, framework="numpy") as handle:
        assert handle.get_slice("top").get_shape() == [6, 4, 3]


def test_a_damaged_row_of_largest_logits_is_computed_again(path, teacher):
    table = LogitTable(path, KEY, Shape(6, 4, 3, top=1))
    cached = CachedTeacher(teacher, table)
    batch = batch_of(torch.tensor([2, 3]), torch.tensor([2, 0]))
    expected = cached(batch).logits
    table._words[10] = -1  # class 65535 of 3
    assert torch.equal(cached(batch).logits, expected)
    assert teacher.asked == 3


def filled(path, teacher, shape=SHAPE) -> LogitTable:
    cached = CachedTeacher(teacher, LogitTable(path, KEY, shape))
    fill(cached, batch_of, chunk=24, done=lambda stored, total: None)
    teacher.asked = 0
    return cached.table


class Unread(LogitTable):
    """A table whose file is read as a whole or not at all."""

    def read(self, index, view):
        raise AssertionError


@pytest.mark.parametrize("top", [None, 2])
def test_a_full_table_is_looked_up_on_the_device_where_it_fits(path, teacher, top):
    shape = Shape(6, 4, 3, top)
    filled(path, teacher, shape)
    everything = batch_of(torch.arange(24) // 4, torch.arange(24) % 4)
    expected = CachedTeacher(teacher, LogitTable(path, KEY, shape))(everything).logits
    ours = CachedTeacher(teacher, Unread(path, KEY, shape), room=lambda: 2 * 24 * shape.words)
    some = torch.tensor([17, 3, 3, 20])
    assert torch.equal(ours(everything).logits, expected)
    assert torch.equal(ours(batch_of(some // 4, some % 4)).logits, expected[some])
    assert teacher.asked == 0
    with pytest.raises(AssertionError):
        CachedTeacher(teacher, Unread(path, KEY, shape), room=lambda: 2 * 24 * shape.words - 1)(
            everything
        )


def test_a_table_that_fills_up_moves_to_the_device(path, teacher):
    """Until then each lookup reads the file, and what is not there is asked for."""
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE), room=lambda: 1 << 20)
    everything = batch_of(torch.arange(24) // 4, torch.arange(24) % 4)
    for rows in (slice(0, 10), slice(5, 24)):
        part = torch.arange(24)[rows]
        assert torch.equal(
            cached(batch_of(part // 4, part % 4)).logits,
            Teacher(teacher.network)(everything).logits.half().float()[rows],
        )
    assert teacher.asked == 24
    expected = cached(everything).logits
    for _ in range(256):
        cached(batch_of(torch.tensor([0]), torch.tensor([0])))
    cached.table._words[:] = 0  # the file is no longer read
    assert torch.equal(cached(everything).logits, expected)


def test_a_damaged_row_is_not_copied_to_the_device(path, teacher):
    table = filled(path, teacher)
    everything = batch_of(torch.arange(24) // 4, torch.arange(24) % 4)
    expected = teacher(everything).logits.half().float()
    teacher.asked = 0
    table._words[10, 1] ^= 1
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE), room=lambda: 1 << 20)
    assert torch.equal(cached(everything).logits, expected)
    assert teacher.asked == 1
    assert cached.table.copy(torch.device("cpu")) is not None


@pytest.mark.gpu
def test_a_lookup_on_a_gpu_does_not_wait_for_it(path, teacher):
    filled(path, teacher)
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE), room=lambda: 1 << 20)
    host = batch_of(torch.arange(24) // 4, torch.arange(24) % 4)
    batch = Batch(*(part.cuda() for part in (host.x, host.y, host.index, host.view)))
    expected = cached(batch).logits
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = cached(batch).logits
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(
        again.cpu(), CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))(host).logits
    )
    assert torch.equal(again, expected)


def test_taps_are_the_live_teachers(path, teacher):
    cached = CachedTeacher(teacher, LogitTable(path, KEY, SHAPE))
    batch = batch_of(torch.tensor([0]), torch.tensor([0]))
    assert torch.equal(
        cached(batch, ("pooled",)).taps["pooled"], teacher(batch, ("pooled",)).taps["pooled"]
    )
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
    teacher.asked = 0
    fill(cached, batch_of, chunk=5, done=lambda stored, total: None)
    assert (teacher.asked, cached.table.filled) == (14, 24)
    fill(cached, batch_of, chunk=5, done=lambda stored, total: None)
    assert teacher.asked == 14


def test_filling_repairs_what_is_damaged(path, teacher):
    table = filled(path, teacher)
    table._words[10, 1] ^= 1
    assert table.missing().tolist() == [10]
    filled(path, teacher)
    assert table.missing().tolist() == []


def test_what_storing_costs_is_the_divergence_from_the_teachers_own_answers(path, teacher):
    everything = batch_of(torch.arange(24) // 4, torch.arange(24) % 4)
    own = teacher(everything).logits.double()
    table = filled(path, teacher, Shape(6, 4, 3, top=1))
    cached = CachedTeacher(teacher, table)
    found = divergence(cached, batch_of, temperatures=(1.0, 4.0), most=100, chunk=7)
    for item, temperature in zip(found, (1.0, 4.0), strict=True):
        p, q = ((z / temperature).softmax(1) for z in (own, cached(everything).logits.double()))
        expected = (p * (p / q).log()).sum(1)
        assert item.temperature == temperature
        assert item.count == 24
        assert item.mean == pytest.approx(float(expected.mean()), rel=1e-6)
        assert item.max == pytest.approx(float(expected.max()), rel=1e-6)
    (sampled,) = divergence(cached, batch_of, temperatures=(1.0,), most=5, chunk=2)
    assert sampled.count == 5


def test_rounding_costs_no_more_than_eleven_bits_can(path, teacher):
    (item,) = divergence(
        CachedTeacher(teacher, filled(path, teacher)),
        batch_of,
        temperatures=(1.0,),
        most=24,
        chunk=24,
    )
    every = torch.arange(24)
    largest = float(teacher(batch_of(every // 4, every % 4)).logits.abs().max())
    # each logit moves by 2^-11 of itself at most, two of them apart by twice that, and KL is at
    # most an eighth of the square of that (Hoeffding's lemma)
    assert 0 <= item.max <= (2**-10 * largest) ** 2 / 8 + 1e-12


def test_it_is_a_safetensors_file(path, teacher):
    fill(
        CachedTeacher(teacher, LogitTable(path, KEY, SHAPE)),
        batch_of,
        chunk=24,
        done=lambda stored, total: None,
    )
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
    table._words[10, 1] ^= 1  # what a power cut may leave: the mark without the row
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


def test_where_the_system_reserves_no_room_zeros_take_it(path, monkeypatch):
    reserved = path.with_name("reserved.safetensors")
    LogitTable(reserved, KEY, SHAPE)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr("kdcli.engine.teachers.logit_table._CHUNK_BYTES", 50)
    LogitTable(path, KEY, SHAPE)
    assert path.read_bytes() == reserved.read_bytes()


def test_what_a_killed_process_stored_stays(path, teacher):
    code = f"""
import os, torch
from pathlib import Path
from kdcli.engine.teachers.logit_table import LogitTable
from kdcli.engine.teachers.row_format import Shape
table = LogitTable(Path({str(path)!r}), {KEY!r}, Shape(6, 4, 3))
table.write(torch.tensor([1]), torch.tensor([2]), torch.tensor([[1.0, 2.0, 3.0]]).half())
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    rows, found = LogitTable(path, KEY, SHAPE).read(torch.tensor([1, 1]), torch.tensor([2, 3]))
    assert found.tolist() == [True, False]
    assert rows[0].tolist() == [1.0, 2.0, 3.0]
