"""Image folders: the same batches whatever decodes them, and however."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdcli.core.types import Batch, Feed
from kdcli.data.augment import Augmentation
from kdcli.data.datasets.folder import Options, load
from kdcli.data.picture_files import resident
from kdcli.data.source import ImageArrays, ImageFolder
from kdcli.data.subset import Restriction

Make = Callable[..., Feed]
Same = Callable[[list[Batch], list[Batch]], bool]
CROP = Augmentation(crop=2, flip=True)
CUT = Augmentation(resized_crop=True, flip=True)
FIXED = replace(CUT, fixed=3)


def streamed(path: Path, size: int = 6, **options: int) -> ImageFolder:
    # sizes below 8 are refused by Options; these tests want the smallest pictures there are
    found = load(
        "image-folder",
        options=Options.model_construct(
            **{**Options(path=str(path)).model_dump(), "size": size, **options}
        ),
        root=path,
    )
    assert isinstance(found, ImageFolder)
    return found


@pytest.mark.parametrize("augment", [Augmentation(), CROP, replace(CROP, fixed=3)])
def test_files_give_the_pixels_that_memory_gives(
    folder: Path, feed: Make, same: Same, augment: Augmentation
) -> None:
    source = streamed(folder)
    settings = {"batch_size": 3, "val_fraction": 0.2, "seed": 5}
    files, memory = feed(source, augment, **settings), feed(resident(source), augment, **settings)
    assert same(list(files.train(2)), list(memory.train(2)))
    for name in ("train", "val", "test"):
        assert same(list(files.split(name)), list(memory.split(name)))
    places = torch.tensor([5, 0, 7, 2, 1])
    assert torch.equal(files.pixels("test", places), memory.pixels("test", places))


@pytest.mark.parametrize("augment", [CROP, CUT, FIXED])
def test_the_number_of_workers_changes_nothing(
    folder: Path, feed: Make, same: Same, augment: Augmentation
) -> None:
    source = streamed(folder)
    alone, helped = (
        feed(source, augment, batch_size=3),
        feed(source, augment, batch_size=3, workers=2),
    )
    for epoch in (1, 2):
        assert same(list(alone.train(epoch)), list(helped.train(epoch)))
    assert same(list(alone.split("test")), list(helped.split("test")))
    assert same(list(alone.train(3, start=2)), list(helped.train(3, start=2)))


def test_an_epoch_that_was_left_early_does_not_leak_into_the_next(
    folder: Path, feed: Make, same: Same
) -> None:
    source = streamed(folder)
    alone, helped = feed(source, CUT, batch_size=2), feed(source, CUT, batch_size=2, workers=1)
    next(helped.train(1))
    assert same(list(helped.train(2)), list(alone.train(2)))


def test_a_resized_crop_varies_training_and_leaves_the_other_splits_alone(
    folder: Path, feed: Make
) -> None:
    made = feed(streamed(folder), CUT, batch_size=12)
    first, second = (
        torch.cat([batch.x[batch.index.argsort()] for batch in made.train(epoch)])
        for epoch in (1, 2)
    )
    assert not torch.equal(first, second)
    assert torch.equal(next(made.split("train")).x, next(made.split("train")).x)


def test_fixed_views_of_a_resized_crop_come_again_and_again(folder: Path, feed: Make) -> None:
    seen: dict[tuple[int, int], torch.Tensor] = {}
    for seed in (0, 1):
        made = feed(streamed(folder), FIXED, batch_size=5, seed=seed)
        for epoch in range(1, 12):
            for batch in made.train(epoch):
                for index, view, x in zip(
                    batch.index.tolist(), batch.view.tolist(), batch.x, strict=True
                ):
                    assert torch.equal(seen.setdefault((index, view), x), x)
                assert torch.equal(made.view(batch.index, batch.view).x, batch.x)
    assert len(seen) == 12 * 3
    # boxes in 6x6 pixels may coincide
    assert len({x.numpy().tobytes() for x in seen.values()}) > 30


def test_evaluation_resizes_the_shorter_side_and_cuts_the_middle_out(
    folder: Path, feed: Make
) -> None:
    source = streamed(folder, size=4, resize=6)
    whole, middle = next(feed(streamed(folder)).split("test")).x, next(feed(source).split("test")).x
    assert torch.equal(middle, whole[:, :, 1:5, 1:5])


def test_photographs_are_resized_by_256_to_224_and_small_pictures_taken_whole(folder: Path) -> None:
    for size, resize in ((224, 256), (128, 146), (32, 32)):
        source = load("image-folder", options=Options(path=str(folder), size=size), root=folder)
        assert isinstance(source, ImageFolder)
        assert source.resize == resize


def test_classes_and_files_come_in_order_of_their_names(folder: Path) -> None:
    source = streamed(folder)
    assert source.class_names == ("cat", "dog")
    assert source.test[:2] == ("test/cat/0.png", "test/cat/1.png")
    assert source.y_train.tolist() == [0] * 6 + [1] * 6


def test_val_stands_in_for_test(folder: Path) -> None:
    whole = streamed(folder).y_test
    (folder / "test").rename(folder / "val")
    assert torch.equal(streamed(folder).y_test, whole)


def test_resident_is_an_option(folder: Path) -> None:
    source = load(
        "image-folder", options=Options(path=str(folder), size=8, resident=True), root=folder
    )
    assert isinstance(source, ImageArrays)
    assert source.x_train.shape == (12, 3, 8, 8)
    assert source.mean == streamed(folder).mean


def test_the_fingerprint_of_a_folder_follows_its_files(folder: Path) -> None:
    before = streamed(folder).fingerprint
    assert streamed(folder).fingerprint == before
    (folder / "train" / "cat" / "0.png").rename(folder / "train" / "cat" / "9.png")
    assert streamed(folder).fingerprint != before


def test_a_ranking_reads_every_training_file_once_as_it_is(
    folder: Path, feed: Make, same: Same
) -> None:
    """A restricted feed of files is that of memory, and a random resized crop does not change the
    scores.
    """
    source = streamed(folder)
    seen = []

    def score(whole: Feed) -> torch.Tensor:
        batches = list(whole.split("train"))
        seen.append(torch.cat([batch.x for batch in batches]))
        return seen[-1].double().mean((1, 2, 3))

    settings = {
        "batch_size": 3,
        "val_fraction": 0.34,
        "seed": 5,
        "restriction": Restriction(per_class=2, select="entropy"),
        "score": score,
    }
    files, memory = feed(source, CROP, **settings), feed(resident(source), CROP, **settings)
    assert [len(pixels) for pixels in seen] == [12, 12]
    assert files.info.positions_sha256 == memory.info.positions_sha256
    assert torch.bincount(files.info.targets).tolist() == [2, 2]
    assert same(list(files.train(1)), list(memory.train(1)))
    assert feed(source, CUT, **settings).info.positions_sha256 == files.info.positions_sha256
