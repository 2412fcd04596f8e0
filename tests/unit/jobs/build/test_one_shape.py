"""Networks are asked in minibatches of one shape: what they answer does not depend on how many images
came with it, whatever the processor makes of that.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from kdcli.core.types import Batch, Output
from kdcli.engine.evaluator import collect
from kdcli.engine.teachers import inference
from kdcli.engine.teachers.inference import Folded
from kdcli.jobs import fill_cache
from kdcli.recipe.resolve import Flag, resolve
from tests.unit.jobs.build.test_logit_cache import SMALL, cache, student

__all__ = ["cache", "student"]


class Habit(nn.Module):
    """A network whose answers depend on how many images it is asked about, as with AMX."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        out = self.network(x, taps)
        shift = 0.1 * len(x) * torch.arange(out.logits.shape[1])
        return Output(out.logits + shift, out.taps)


@pytest.fixture
def with_a_habit(monkeypatch):
    """Teachers whose copies have it."""
    monkeypatch.setattr(
        inference, "fold", lambda network: Folded(Habit(copy.deepcopy(network).eval()), 0, 0)
    )


def half_gone(table) -> None:
    """Rows of the first fifth are gone, their marks are not."""
    content = bytearray(table.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header : header + 20 * 300] = bytes(20 * 300)
    table.write_bytes(content)


@pytest.mark.usefixtures("with_a_habit")
def test_what_was_stored_before_changes_no_bit_of_a_student(student, cache):
    fresh, _, _ = student("fresh")
    (table,) = cache.iterdir()
    whole = table.read_bytes()
    half_gone(table)
    assert student("half")[0] == fresh
    assert table.read_bytes() == whole


@pytest.mark.usefixtures("with_a_habit")
def test_a_table_that_was_filled_ahead_serves_as_one_that_grew(student, cache, trained, tmp_path):
    grown, _, _ = student("grown")
    (table,) = cache.iterdir()
    rows = table.read_bytes()
    table.unlink()
    values = {**SMALL, "teacher.checkpoint": str(trained.out / "teacher"), "student.name": "mlp"}
    flags = [Flag(option=key, key=key, value=value) for key, value in values.items()]
    fill_cache(resolve("distill", flags=flags, environ={}), out=tmp_path / "runs")
    assert table.read_bytes() == rows
    assert student("served")[0] == grown


@pytest.mark.usefixtures("with_a_habit")
@pytest.mark.parametrize("method", ["kd", "pkt"])
def test_a_live_teacher_answers_the_last_minibatch_as_the_others(monkeypatch, student, method):
    asked = set()
    real = Habit.forward

    def counted(self, x, taps=()):
        asked.add(len(x))
        return real(self, x, taps)

    monkeypatch.setattr(Habit, "forward", counted)
    student("live", method, **{"teacher.cache": "off"})
    assert asked == {64}  # 1,293 images are 20 minibatches and 13 images


@pytest.mark.parametrize("sizes", [[8, 8, 3], [8], [8, 1]])
def test_a_split_is_measured_in_batches_of_one_size(sizes):
    x = torch.randn(sum(sizes), 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(len(x)) % 3
    asked = []

    def forward(batch: Batch) -> Tensor:
        asked.append(tuple(batch.x.shape))
        return batch.x.flatten(1)[:, :3] + len(batch.x)

    def batches(sizes):
        for rows in torch.arange(len(x)).split(sizes):
            yield Batch(x[rows], y[rows], rows, torch.zeros_like(rows))

    logits, targets = collect(forward, batches(sizes))
    assert set(asked) == {(sizes[0], 1, 4, 4)}
    assert torch.equal(logits, x.flatten(1)[:, :3] + sizes[0])
    assert torch.equal(targets, y)
