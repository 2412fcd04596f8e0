from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcli.data.split import partition, sample_by_class
from kdcli.errors import BadData, UsageError

Y = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
NAMES = ("cat", "dog", "owl")


def parts(
    val_fraction: float = 0.0, train_limit: int | None = None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    return partition(
        Y, val_fraction=val_fraction, train_limit=train_limit, seed=seed, class_names=NAMES
    )


def test_the_held_out_part_is_disjoint_and_has_every_class_in_proportion() -> None:
    train, val = parts(val_fraction=0.2)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(100))
    assert Y[val].bincount().tolist() == [10, 6, 4]
    assert torch.equal(train, train.sort().values)


def test_the_limit_takes_from_what_is_not_held_out() -> None:
    train, val = parts(val_fraction=0.2, train_limit=8)
    assert Y[train].bincount().tolist() == [4, 2, 2]
    assert not set(train.tolist()) & set(val.tolist())
    assert torch.equal(val, parts(val_fraction=0.2)[1])


def test_the_seed_decides_what_is_held_out() -> None:
    assert torch.equal(parts(0.2, seed=3)[1], parts(0.2, seed=3)[1])
    assert not torch.equal(parts(0.2, seed=3)[1], parts(0.2, seed=4)[1])


@given(
    counts=st.lists(st.integers(0, 40), min_size=2, max_size=8).filter(any), share=st.floats(0, 1)
)
def test_a_draw_has_the_size_asked_for_and_no_class_is_off_by_one(
    counts: list[int], share: float
) -> None:
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    count = round(len(y) * share)
    mask = sample_by_class(y, count, stream=5)
    assert int(mask.sum()) == count
    drawn = y[mask].bincount(minlength=len(counts))
    assert all(
        abs(got - want * count / len(y)) < 1
        for got, want in zip(drawn.tolist(), counts, strict=True)
    )


def test_a_class_without_a_training_sample_is_named() -> None:
    with pytest.raises(BadData, match="'owl' has no training sample"):
        partition(Y[:80], val_fraction=0, train_limit=None, seed=0, class_names=NAMES)
    with pytest.raises(BadData, match="and 1 more") as caught:
        partition(Y[:50], val_fraction=0, train_limit=10, seed=0, class_names=NAMES)
    assert "train_limit" in str(caught.value.hint)


def test_what_cannot_be_drawn_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="holds out none"):
        parts(val_fraction=0.001)
    with pytest.raises(UsageError, match="only 80 samples"):
        parts(val_fraction=0.2, train_limit=90)
