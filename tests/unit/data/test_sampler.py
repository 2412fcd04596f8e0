"""Which images an epoch of the balanced sampler shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdcli.core import random
from kdcli.data.augment import Augmentation
from kdcli.data.feed import SourceFeed
from kdcli.data.sampler import balanced

# 3, 40, 0 and 60 images
LABELS = torch.tensor([0] * 3 + [1] * 40 + [3] * 60)


def epoch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    return balanced(random.key(0, "order", number), LABELS)


def test_every_class_that_has_images_comes_equally_often():
    for number in range(1, 6):
        counts = torch.bincount(LABELS[epoch(number)[0]], minlength=4).tolist()
        assert counts[2] == 0
        assert sum(counts) == 103
        assert set(counts) <= {0, 34, 35}


def test_images_of_a_class_come_again_only_when_all_have_come():
    order, before = epoch(1)
    often = torch.bincount(order, minlength=103)
    assert often[:3].min() >= 11
    assert often[:3].max() <= 12
    assert often[3:].max() == 1
    pairs = set(zip(order.tolist(), before.tolist(), strict=True))
    assert len(pairs) == 103, "an image and how often it came before tell the draws apart"
    assert {again for at, again in pairs if at == 0} == set(range(int(often[0])))


def test_epochs_differ_and_large_classes_are_seen_in_the_course_of_them():
    orders = [epoch(number)[0] for number in range(1, 9)]
    assert len({tuple(order.tolist()) for order in orders}) == 8
    assert torch.unique(torch.cat(orders)).numel() == 103


def test_the_small_class_is_not_in_one_place():
    places = (LABELS[epoch(1)[0]] == 0).nonzero().flatten().double()
    assert 35 < places.mean() < 68


@pytest.fixture
def unequal(pictures, feed):
    """A feed of 83 images, ten of class 0, the others of class 1."""
    labels = (torch.arange(len(pictures.y_train)) >= 10).long()
    source = replace(pictures, y_train=labels, y_test=pictures.y_test % 2, class_names=("a", "b"))
    return lambda augment: feed(source, augment, sampler="balanced")


def test_an_epoch_can_begin_at_any_minibatch(unequal, same):
    made = unequal(Augmentation(crop=2, flip=True))
    assert isinstance(made, SourceFeed)
    whole = list(made.train(4))
    for start in range(len(whole) + 1):
        assert same(list(made.train(4, start)), whole[start:])
    drawn = [torch.stack((draw.index, draw.view)) for draw in made.draws(4)]
    read = [torch.stack((batch.index, batch.view)) for batch in whole]
    assert all(torch.equal(*pair) for pair in zip(drawn, read, strict=True))


def test_an_image_that_comes_again_comes_in_another_view(unequal):
    batches = list(unequal(Augmentation(crop=2, flip=True)).train(1))
    index = torch.cat([batch.index for batch in batches])
    view = torch.cat([batch.view for batch in batches])
    assert (index < 10).sum() >= 41
    assert view[index == 0].unique().numel() >= 3
