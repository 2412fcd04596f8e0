"""A training set without some classes, or with few images of each: which ones stay, and what is
refused by name.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcli.core import random
from kdcli.data.source import ImageArrays
from kdcli.data.split import partition
from kdcli.data.subset import Restriction, choose
from kdcli.errors import BadData, UsageError

NAMES = ("cat", "dog", "owl", "fox")
Y = torch.arange(200) % 4
SCORES = random.uniform(random.key(0, "scores"), torch.arange(200)).double()


def parts(*, val_fraction=0.0, train_limit=None, seed=0, scores=SCORES, **restriction):
    return partition(
        Y,
        val_fraction=val_fraction,
        train_limit=train_limit,
        seed=seed,
        class_names=NAMES,
        restriction=Restriction(**restriction),
        scores=lambda: scores,
    )


def counts(positions: torch.Tensor) -> list[int]:
    return torch.bincount(Y[positions], minlength=4).tolist()


# ---- whole classes -------------------------------------------------------------------------------


def test_an_excluded_class_has_no_training_image_and_stays_in_the_held_out_part():
    train, val = parts(val_fraction=0.2, exclude=(2,))
    full_train, full_val = parts(val_fraction=0.2)
    assert counts(train) == [40, 40, 0, 40]
    assert counts(val) == [10, 10, 10, 10]
    assert torch.equal(val, full_val)
    assert torch.equal(train, full_train[Y[full_train] != 2])


def test_the_limit_is_drawn_from_what_is_not_excluded():
    train, _ = parts(train_limit=30, exclude=(0, 3))
    assert counts(train) == [0, 15, 15, 0]
    with pytest.raises(UsageError, match="only 100 samples are there"):
        parts(train_limit=101, exclude=(0, 3))


def test_a_class_that_is_empty_without_having_been_excluded_is_still_refused():
    y = torch.tensor([0, 0, 1, 1])
    with pytest.raises(BadData, match="'owl' has no training sample"):
        partition(
            y,
            val_fraction=0,
            train_limit=None,
            seed=0,
            class_names=NAMES[:3],
            restriction=Restriction(exclude=(0,)),
        )
    train, _ = partition(
        y,
        val_fraction=0,
        train_limit=None,
        seed=0,
        class_names=NAMES[:3],
        restriction=Restriction(exclude=(2,)),
    )
    assert len(train) == 4


# ---- few images a class --------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["random", "entropy", "entropy-ascending", "stratified"])
@pytest.mark.parametrize("per_class", [1, 7, 40])
def test_every_class_that_is_left_gets_the_same_number_and_nothing_held_out(select, per_class):
    train, val = parts(val_fraction=0.2, exclude=(1,), per_class=per_class, select=select)
    assert counts(train) == [per_class, 0, per_class, per_class]
    assert torch.equal(train, train.unique())
    assert not set(train.tolist()) & set(val.tolist())
    again, _ = parts(val_fraction=0.2, exclude=(1,), per_class=per_class, select=select)
    assert torch.equal(train, again)


def test_a_random_choice_depends_on_the_seed_and_not_on_other_classes():
    few, many, without, other = (
        parts(per_class=n, seed=seed, exclude=exclude)[0]
        for n, seed, exclude in [(5, 0, ()), (9, 0, ()), (5, 0, (3,)), (5, 1, ())]
    )
    assert set(few.tolist()) < set(many.tolist())
    assert torch.equal(few[Y[few] != 3], without)
    assert not torch.equal(few, other)


def test_all_images_are_what_no_restriction_leaves():
    for select in ("random", "entropy", "entropy-ascending", "stratified"):
        assert torch.equal(parts(per_class=50, select=select)[0], torch.arange(200))


def test_a_ranking_takes_the_highest_the_lowest_or_every_so_many():
    """Against a sort in Python. Equal scores: the earlier image first, in both directions."""
    scores = (SCORES * 20).floor()
    for label in range(4):
        own = [position for position in range(200) if position % 4 == label]
        falling = sorted(own, key=lambda position: (-scores[position].item(), position))
        rising = sorted(own, key=lambda position: (scores[position].item(), position))
        expected = {
            "entropy": falling[:6],
            "entropy-ascending": rising[:6],
            "stratified": [falling[math.floor((part + 0.5) * 50 / 6)] for part in range(6)],
        }
        for select, positions in expected.items():
            train, _ = parts(per_class=6, select=select, scores=scores)
            assert train[Y[train] == label].tolist() == sorted(positions), select


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any), data=st.data())
def test_a_stratified_choice_takes_the_image_in_the_middle_of_each_equal_part_of_the_ranking(
    sizes, data
):
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    per_class = data.draw(st.integers(1, min(size for size in sizes if size)))
    scores = -torch.arange(len(y)).double()  # the ranking is the order
    found = choose(
        y, torch.arange(len(y)), scores, per_class=per_class, select="stratified", seed=0
    )
    start = 0
    for label, size in enumerate(sizes):
        ranks = (found[y[found] == label] - start).tolist()
        start += size
        if size:
            assert all(
                rank <= (part + 0.5) * size / per_class < rank + 1
                for part, rank in enumerate(ranks)
            )
            assert len(ranks) == per_class


def test_more_images_than_a_class_has_are_refused_with_its_name_and_size():
    y = torch.tensor([0] * 9 + [1] * 5 + [2] * 7 + [3] * 8)
    settings = {"val_fraction": 0.0, "train_limit": None, "seed": 0, "class_names": NAMES}
    with pytest.raises(
        UsageError, match=r"data\.per_class is 6, but class 'dog' has only 5 images"
    ) as caught:
        partition(y, **settings, restriction=Restriction(per_class=6))
    assert "to 5 at most" in caught.value.hint
    train, _ = partition(y, **settings, restriction=Restriction(exclude=(1,), per_class=6))
    assert torch.bincount(y[train], minlength=4).tolist() == [6, 0, 6, 6]


def test_nobody_is_asked_for_scores_before_everything_else_was_checked():
    def expensive() -> torch.Tensor:
        raise AssertionError("scores were computed")

    settings = {
        "val_fraction": 0.0,
        "train_limit": None,
        "seed": 0,
        "class_names": NAMES,
        "scores": expensive,
    }
    for restriction in (Restriction(), Restriction(per_class=3), Restriction(exclude=(0,))):
        partition(Y, **settings, restriction=restriction)
    for restriction in (
        Restriction(per_class=51, select="entropy"),
        Restriction((0, 1, 2), 51, "entropy"),
    ):
        with pytest.raises(UsageError):
            partition(Y, **settings, restriction=restriction)


@pytest.mark.parametrize(
    "scores", [torch.full((200,), math.nan), torch.zeros(199), torch.zeros(200, 1)]
)
def test_scores_that_rank_nothing_are_refused(scores):
    with pytest.raises(BadData, match="finite score for each of 200"):
        parts(per_class=3, select="entropy", scores=scores)


# ---- the feed ------------------------------------------------------------------------------------


def test_a_feed_knows_only_what_stays(pictures: ImageArrays, feed):
    """83 pictures of five classes, 16 or 17 each; a picture's score is its position."""
    seen = []

    def score(whole):
        seen.append([whole.size(name) for name in ("train", "val", "test")])
        batches = list(whole.split("train"))
        assert torch.equal(torch.cat([batch.y for batch in batches]), pictures.y_train)
        return torch.cat([batch.index for batch in batches]).double()

    made = feed(
        pictures, val_fraction=0.25, restriction=Restriction((2,), 4, "entropy"), score=score
    )
    plain = feed(pictures, val_fraction=0.25)
    assert seen == [[83, 0, 0]]
    assert (made.size("train"), made.info.num_train, made.size("val"), made.size("test")) == (
        16,
        16,
        plain.size("val"),
        10,
    )
    assert torch.bincount(made.info.targets, minlength=5).tolist() == [4, 4, 0, 4, 4]
    assert made.info.num_classes == 5
    # the very pictures: the four last of each class that were not held out
    left = [row for row in range(83) if row % 5 != 2]
    held = {tuple(x.flatten().tolist()) for batch in made.split("val") for x in batch.x}
    whole = torch.cat([batch.x for batch in feed(pictures).split("train")])
    left = [row for row in left if tuple(whole[row].flatten().tolist()) not in held]
    expected = sorted(
        row for label in (0, 1, 3, 4) for row in [row for row in left if row % 5 == label][-4:]
    )
    got = torch.cat([batch.x for batch in made.split("train")])
    assert torch.equal(got, whole[expected])
    for batch in made.train(1):
        assert torch.equal(batch.y, made.info.targets[batch.index])
        assert torch.equal(batch.x, got[batch.index])


def test_the_digest_of_positions_tells_training_sets_apart(pictures: ImageArrays, feed):
    def digest(**changes) -> str:
        return feed(pictures, **changes).info.positions_sha256

    different = [
        digest(),
        digest(val_fraction=0.25),
        digest(val_fraction=0.25, seed=1),
        digest(restriction=Restriction((0,))),
        digest(restriction=Restriction((1,))),
        digest(restriction=Restriction(per_class=3)),
        digest(restriction=Restriction(per_class=3), seed=1),
    ]
    assert len(set(different)) == len(different)
    assert digest(restriction=Restriction((1, 0), 16)) == digest(
        restriction=Restriction((0, 1), 16)
    )


def test_one_image_of_one_class_is_not_enough(pictures: ImageArrays, feed):
    with pytest.raises(UsageError, match="one sample is not enough"):
        feed(pictures, restriction=Restriction((0, 1, 2, 3), 1))


def test_a_test_set_without_the_class_is_no_matter(pictures: ImageArrays, feed):
    rows = pictures.y_test != 2
    source = replace(pictures, x_test=pictures.x_test[rows], y_test=pictures.y_test[rows])
    assert feed(source, restriction=Restriction((2,))).size("test") == 8
