"""Ranks without other processes: which samples are whose, what they weigh, and that one rank alone
changes nothing.
"""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch import distributed

from kdcli.core.types import Batch
from kdcli.engine.distributed import Pace, Ranks
from kdcli.errors import RankLost


def minibatch(count: int) -> Batch:
    index = torch.arange(count)
    return Batch(index.float(), index, index, index)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("count", [10, 11, 29, 64])
def test_every_sample_belongs_to_one_rank_and_weighs_as_much_as_any_other(size, count):
    parts = [Ranks(rank, size).share(minibatch(count)) for rank in range(size)]
    assert torch.cat([part.index for part in parts]).tolist() == list(range(count))
    lengths = [len(part.y) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 2
    # what DistributedDataParallel makes of the ranks' means, each times its weight
    weights = [Ranks(rank, size).weight(part) for rank, part in enumerate(parts)]
    mean = sum(weight * part.x.mean() for weight, part in zip(weights, parts, strict=True)) / size
    assert float(mean) == pytest.approx(float(minibatch(count).x.mean()), rel=1e-6)
    assert all(Ranks(rank, size).counts(part) for rank, part in enumerate(parts))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_minibatch_too_small_to_share_is_done_by_every_rank_and_counted_once(count):
    parts = [Ranks(rank, 3).share(minibatch(count)) for rank in range(3)]
    assert [part.index.tolist() for part in parts] == [list(range(count))] * 3
    assert [Ranks(rank, 3).weight(part) for rank, part in enumerate(parts)] == [1.0] * 3
    assert [Ranks(rank, 3).counts(part) for rank, part in enumerate(parts)] == [True, False, False]


def test_one_rank_is_no_ranks():
    alone, batch = Ranks(), minibatch(7)
    assert alone.share(batch) is batch
    assert (alone.weight(batch), alone.counts(batch), alone.first) == (1.0, True, True)
    assert alone.gather(batch.x) is batch.x
    assert alone.total(batch.x) is batch.x
    assert (alone.most(3), alone.every("item"), alone.from_first(lambda: "made")) == (
        3,
        ["item"],
        "made",
    )
    assert alone.differing({"a": batch.x}) == {}
    assert alone.own({"a": batch.x}) == {"a": batch.x}
    pace = Pace(alone)
    assert all(pace.due() for _ in range(10))


def test_a_state_gives_each_rank_its_own():
    saved = {"method.mean": torch.tensor(0), "rank1.method.mean": torch.tensor(1)}
    assert [int(Ranks(rank, 2).own(saved)["method.mean"]) for rank in range(2)] == [0, 1]


def test_ranks_talk_about_twice_a_second(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Ranks, "most", lambda _self, number: number)
    pace = Pace(Ranks(0, 2))
    due = []
    for _ in range(1000):
        clock[0] += 0.01
        if pace.due():
            due.append(clock[0])
    gaps = [later - sooner for sooner, later in itertools.pairwise(due)]
    assert max(gaps) == pytest.approx(0.5, abs=0.02)
    assert len(due) < 35


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:545] Connection closed by peer"), True),
        (distributed.DistBackendError("NCCL error: remote process exited"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lost_rank_is_told_from_an_error_of_ones_own(error, lost):
    with pytest.raises(RankLost if lost else RuntimeError) as found, Ranks(0, 2).noticing():
        raise error
    assert isinstance(found.value, RankLost) == lost
    with pytest.raises(type(error)), Ranks().noticing():
        raise error
