from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from kdcli.core.types import Batch, Feed, Sees
from kdcli.data.augment import Augmentation
from kdcli.data.source import ImageArrays
from kdcli.errors import BadData, Incompatible, UsageError

Make = Callable[..., Feed]
Same = Callable[[list[Batch], list[Batch]], bool]
CROP = Augmentation(crop=2, flip=True)


def test_an_epoch_does_not_depend_on_what_was_read_before(
    pictures: ImageArrays, feed: Make, same: Same
) -> None:
    used = feed(pictures, CROP)
    for epoch in (1, 2, 5):
        list(itertools.islice(used.train(epoch), 3))
    assert same(list(used.train(3)), list(feed(pictures, CROP).train(3)))


def test_an_epoch_can_begin_at_any_minibatch(pictures: ImageArrays, feed: Make, same: Same) -> None:
    made = feed(pictures, CROP)
    whole = list(made.train(4))
    for start in range(len(whole) + 1):
        assert same(list(made.train(4, start)), whole[start:])


def test_epochs_and_seeds_differ_in_order_and_views(pictures: ImageArrays, feed: Make) -> None:
    def drawn(seed: int, epoch: int) -> tuple[list[int], list[int]]:
        batches = list(feed(pictures, CROP, seed=seed).train(epoch))
        return torch.cat([batch.index for batch in batches]).tolist(), torch.cat(
            [batch.view for batch in batches]
        ).tolist()

    orders, views = zip(drawn(0, 1), drawn(0, 2), drawn(1, 1), strict=True)
    assert len({tuple(order) for order in orders}) == 3
    assert len({tuple(view) for view in views}) == 3
    assert all(sorted(order) == list(range(83)) for order in orders)


def test_fixed_views_are_the_same_in_every_epoch_and_for_every_seed(
    pictures: ImageArrays, feed: Make
) -> None:
    fixed = replace(CROP, fixed=3)
    seen: dict[tuple[int, int], torch.Tensor] = {}
    for seed in (0, 1):
        made = feed(pictures, fixed, seed=seed)
        for epoch in range(1, 6):
            for batch in made.train(epoch):
                assert torch.equal(made.view(batch.index, batch.view).x, batch.x)
                for index, view, x in zip(
                    batch.index.tolist(), batch.view.tolist(), batch.x, strict=True
                ):
                    assert torch.equal(seen.setdefault((index, view), x), x)
    assert {view for _, view in seen} == {0, 1, 2}
    assert len(seen) > 240, "of 83 images in 3 views"


def test_fixed_views_are_drawn_anew_each_epoch_wherever_it_begins(
    pictures: ImageArrays, feed: Make, same: Same
) -> None:
    made = feed(pictures, replace(CROP, fixed=3))
    first, second = (
        torch.cat([batch.view[batch.index.argsort()] for batch in made.train(epoch)])
        for epoch in (1, 2)
    )
    assert not torch.equal(first, second)
    assert same(list(made.train(2, 4)), list(made.train(2))[4:])


def test_one_fixed_view_is_an_image_that_never_varies(pictures: ImageArrays, feed: Make) -> None:
    made = feed(pictures, replace(CROP, fixed=1))
    first, second = (torch.cat([batch.x for batch in made.train(epoch)]) for epoch in (1, 2))
    order = [torch.cat([batch.index for batch in made.train(epoch)]).argsort() for epoch in (1, 2)]
    assert torch.equal(first[order[0]], second[order[1]])
    with pytest.raises(Incompatible, match=r"data\.views is 51, more than the 50"):
        feed(pictures, replace(CROP, fixed=51))


def test_a_batch_says_what_it_holds(pictures: ImageArrays, feed: Make) -> None:
    made = feed(pictures, CROP, val_fraction=0.25, train_limit=40)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (made.info.mean, made.info.std))
    plain = torch.cat([batch.x for batch in made.split("train")]) * std * 255 + mean * 255
    for batch in made.train(1):
        assert torch.equal(made.info.targets[batch.index], batch.y)
        expected = CROP.apply(plain[batch.index].round().to(torch.uint8), batch.view)
        assert torch.equal((batch.x * std * 255 + mean * 255).round(), expected.float())


def test_normalised_pixels_have_mean_0_and_deviation_1(pictures: ImageArrays, feed: Make) -> None:
    x = torch.cat([batch.x for batch in feed(pictures).split("train")])
    assert x.dtype == torch.float32
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (x.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_splits_have_their_sizes_in_index_order(pictures: ImageArrays, feed: Make) -> None:
    made = feed(pictures, CROP, val_fraction=0.25, train_limit=40)
    sizes = {"train": 40, "val": 21, "test": 10}
    assert made.info.num_train == 40
    for name, size in sizes.items():
        batches = list(made.split(name))
        assert made.size(name) == size
        assert torch.cat([batch.index for batch in batches]).tolist() == list(range(size))
        assert not torch.cat([batch.view for batch in batches]).any()
    labels = torch.cat([batch.y for batch in made.split("test")])
    assert torch.equal(labels, pictures.y_test)


def test_a_split_that_does_not_exist_yields_nothing(pictures: ImageArrays, feed: Make) -> None:
    made = feed(pictures)
    assert made.size("val") == 0
    assert list(made.split("val")) == []


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_sample_is_by_class_not_augmented_and_the_same_for_every_seed(
    pictures: ImageArrays, feed: Make, same: Same, name: str
) -> None:
    made = feed(pictures, CROP, val_fraction=0.25)
    drawn = list(made.sample(name, 17))
    index = torch.cat([batch.index for batch in drawn])
    assert index.tolist() == sorted(set(index.tolist()))
    assert sorted(
        torch.bincount(torch.cat([batch.y for batch in drawn]), minlength=5).tolist()
    ) == [3, 3, 3, 4, 4]
    whole = torch.cat([batch.x for batch in made.split(name)])
    assert torch.equal(torch.cat([batch.x for batch in drawn]), whole[index])
    assert same(drawn, list(made.sample(name, 17)))
    whole_set = (list(feed(pictures, CROP, seed=seed).sample("train", 17)) for seed in (0, 1))
    assert same(*whole_set)


def test_a_sample_is_at_most_the_split_and_in_batches_of_two_or_more(
    pictures: ImageArrays, feed: Make
) -> None:
    made = feed(pictures)
    for count in range(2, 90):
        sizes = [len(batch.y) for batch in made.sample("train", count)]
        assert sum(sizes) == min(count, 83)
        assert min(sizes) >= 2
    assert min(len(batch.y) for batch in feed(pictures, eval_batch_size=1).sample("train", 9)) == 2
    assert list(made.sample("val", 5)) == list(made.sample("train", 0)) == []


def test_large_pictures_are_measured_fewer_at_a_time(
    pictures: ImageArrays, feed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sizes(made: Feed) -> list[int]:
        return [len(batch.y) for batch in made.split("test")]

    made = feed(pictures, eval_batch_size=512)
    assert sizes(made) == [10]
    monkeypatch.setattr("kdcli.data.feed._MOST_PIXELS", 4 * 6 * 9)
    assert sizes(made) == [4, 4, 2]
    # a teacher that sees them larger counts
    larger = replace(made.info.pixels, input_shape=(3, 12, 9))
    assert sizes(made.showing((Sees(larger),))) == [2] * 5
    assert sizes(feed(pictures, eval_batch_size=3)) == [3, 3, 3, 1]


def test_a_sample_of_fewer_images_than_classes_is_not_of_the_first_classes(
    pictures: ImageArrays, feed: Make
) -> None:
    many = replace(pictures, y_train=torch.arange(83) % 41, class_names=tuple(map(str, range(41))))
    labels = torch.cat([batch.y for batch in feed(many).sample("train", 20)])
    assert labels.max() > 30


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(40, [40, 40, 3]), (41, [41, 41]), (82, [82]), (83, [83]), (200, [83])],
)
def test_a_last_minibatch_of_one_sample_is_left_out(
    pictures: ImageArrays, feed: Make, batch_size: int, sizes: list[int]
) -> None:
    made = feed(pictures, batch_size=batch_size)
    assert [len(batch.y) for batch in made.train(1)] == sizes
    assert made.train_batches == len(sizes)


def test_vectors_pass_unchanged(feed: Make) -> None:
    x = torch.linspace(-2, 2, 24).view(4, 1, 1, 6)
    y = torch.tensor([0, 1, 0, 1])
    source = ImageArrays(x, y, x, y, ("a", "b"), (0.0,), (1.0,), torch.tensor([0, 0]))
    made = feed(source)
    assert torch.equal(next(made.split("test")).x, x)
    assert made.info.input_shape == (1, 1, 6)
    assert made.info.superclass is source.superclass


def test_the_fingerprint_changes_with_a_single_pixel_or_label(pictures: ImageArrays) -> None:
    x, y = pictures.x_test.clone(), pictures.y_train.clone()
    x[9, 2, 5, 8] ^= 1
    y[0] = 1
    sources = (
        pictures,
        replace(pictures, x_test=x),
        replace(pictures, y_train=y),
        replace(pictures, x_train=pictures.x_train.mT),
    )
    assert len({source.fingerprint for source in sources}) == 4
    assert replace(pictures, x_test=pictures.x_test.clone()).fingerprint == pictures.fingerprint


def test_too_little_to_train_on(pictures: ImageArrays, feed: Make) -> None:
    with pytest.raises(BadData, match="no training sample"):
        feed(pictures, train_limit=3)
    lone = replace(
        pictures, x_train=pictures.x_train[:1], y_train=torch.tensor([0]), class_names=("a",)
    )
    with pytest.raises(UsageError, match="not enough"):
        feed(lone)


@pytest.mark.gpu
def test_a_gpu_gets_the_same_batches(pictures: ImageArrays, feed: Make) -> None:
    for augment in (CROP, replace(CROP, fixed=3)):
        ours, theirs = (
            feed(pictures, augment, val_fraction=0.2),
            feed(pictures, augment, val_fraction=0.2, device="cuda"),
        )
        for one, other in zip(ours.train(2), theirs.train(2), strict=True):
            assert other.x.is_cuda
            assert all(
                torch.equal(getattr(one, name), getattr(other, name).cpu())
                for name in ("x", "y", "index", "view")
            )


def test_pixels_are_those_of_the_split_before_they_are_normalised(
    pictures: ImageArrays, feed: Make
) -> None:
    made, places = feed(pictures, CROP), torch.tensor([9, 0, 3, 3, 7, 1])
    assert torch.equal(made.pixels("test", places), pictures.x_test[places])
