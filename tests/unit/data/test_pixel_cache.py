"""Decoded pictures that are kept: the same bits, taken from the disk; noticed when they are stale,
damaged or too many.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from kdcli.core.types import Batch, Feed, Sees, SplitName
from kdcli.data import pixel_cache, streamed
from kdcli.data.augment import Augmentation
from kdcli.data.datasets.folder import Options, load
from kdcli.data.source import ImageFolder
from kdcli.errors import BadData, CorruptFile, Incompatible, UsageError
from kdcli.results.preprocessing import Preprocessing
from tests.unit.data.conftest import pixels

Make = Callable[..., Feed]
Same = Callable[[list[Batch], list[Batch]], bool]
WAYS = {
    "as they are": Augmentation(),
    "crop": Augmentation(crop=2, flip=True),
    "cut": Augmentation(resized_crop=True, flip=True),
    "paint": Augmentation(flip=True, color_jitter=(0.4, 0.4, 0.4, 0.1)),
}
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """JPEG files of different sizes: 5 a class to train on, 2 held out, 3 to test on; an empty
    cache.
    """
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                name = f"{part} {label} {number}"
                coarse = Image.fromarray(pixels(name, 5, 7, 3).numpy())
                coarse.resize((40 + 3 * number, 33)).save(folder / f"{number}.jpg")
    return tmp_path / "data"


def opened(path: Path, *, shrink: int | None = None, cache: float | None = None) -> ImageFolder:
    options = Options(path=str(path), size=8, shrink=shrink, cache_pixels=cache)
    found = load("image-folder", options=options, root=path)
    assert isinstance(found, ImageFolder)
    return found


def everything(feed: Feed) -> list[Batch]:
    return [*feed.train(1), *feed.train(2), *(b for name in SPLITS for b in feed.split(name))]


def forbidden(*_: object) -> torch.Tensor:
    raise AssertionError("a file was decoded")


@pytest.mark.parametrize("shrink", [None, 12])
@pytest.mark.parametrize("augment", WAYS.values(), ids=WAYS)
def test_what_is_kept_is_what_decoding_gives(
    photographs: Path,
    feed: Make,
    same: Same,
    monkeypatch: pytest.MonkeyPatch,
    augment: Augmentation,
    shrink: int | None,
) -> None:
    """Bit for bit, for networks of two sizes, and then without decoding a file."""
    plain = feed(opened(photographs, shrink=shrink), augment, batch_size=4)
    other = Sees(Preprocessing((3, 10, 10), 12, (0.5,) * 3, (0.5,) * 3))
    source = opened(photographs, shrink=shrink, cache=1)
    first = feed(source, augment, batch_size=4).showing([other])
    assert any("pictures decoded and kept in" in note for note in first.info.notes)
    expected, found = everything(plain.showing([other])), everything(first)
    assert same(found, expected)
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one.others[other], two.others[other])
    assert first.info.fingerprint == plain.info.fingerprint
    kept = [*plain.train(1), *plain.split("val"), *plain.split("test")]
    monkeypatch.setattr(streamed, "decode", forbidden)
    monkeypatch.setattr(pixel_cache, "decode", forbidden)
    again = feed(source, augment, batch_size=4).showing([other])
    assert any("decoded pictures are taken from" in note for note in again.info.notes)
    assert same([*again.train(1), *again.split("val"), *again.split("test")], kept)


def test_workers_and_threads_take_the_same_pictures_out(
    photographs: Path, feed: Make, same: Same
) -> None:
    source = opened(photographs, cache=1)
    alone, helped = (feed(source, WAYS["cut"], batch_size=3, workers=n) for n in (0, 2))
    assert same(list(alone.train(1)), list(helped.train(1)))


def test_files_that_changed_are_decoded_again_and_the_others_are_not(
    photographs: Path, feed: Make, same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, int]] = []
    feed(opened(photographs, cache=1), decoded=lambda done, of: heard.append((done, of)))
    assert [done for done, _ in heard if done] == [count for done, count in heard if not done]
    assert sum(done for done, _ in heard) == 20  # all pictures, and all of them once
    changed = photographs / "train" / "cat" / "1.jpg"
    shutil.copy(photographs / "train" / "dog" / "4.jpg", changed)
    (photographs / "train" / "dog" / "0.jpg").unlink()
    decoded: list[str] = []
    real = pixel_cache.decode

    def counted(folder: ImageFolder, path: str, shrink: int | None = None) -> torch.Tensor:
        decoded.append(path)
        return real(folder, path, shrink)

    monkeypatch.setattr(pixel_cache, "decode", counted)
    again = feed(opened(photographs, cache=1))
    assert decoded == ["train/cat/1.jpg"]
    assert any("files have changed" in note and "1 of 13" in note for note in again.info.notes)
    assert same(everything(again), everything(feed(opened(photographs))))
    # touched alone: as large as before, but of another time
    status = changed.stat()
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    feed(opened(photographs, cache=1))
    assert decoded == ["train/cat/1.jpg"] * 2
    # nothing is left of what was replaced
    assert len(list((photographs.parent / "cache" / "pixels").glob("*.bin"))) == 2


def test_damage_is_noticed(photographs: Path, feed: Make) -> None:
    feed(opened(photographs, cache=1))
    for file in (photographs.parent / "cache" / "pixels").glob("*.bin"):
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
    damaged = feed(opened(photographs, cache=1), batch_size=16)
    with pytest.raises(CorruptFile, match=r"is damaged.*not what was written"):
        list(damaged.train(1))
    for file in (photographs.parent / "cache" / "pixels").glob("*.npy"):
        file.write_bytes(b"\x93NUMPY nonsense")
    assert len(list(feed(opened(photographs, cache=1), batch_size=16).train(1))) == 1


def test_no_room_is_said_before_anything_is_decoded(
    photographs: Path, feed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "decode", forbidden)
    with pytest.raises(UsageError, match=r"more than data.cache_pixels = 1e-07"):
        feed(opened(photographs, cache=1e-7))
    with pytest.raises(UsageError, match=r"more than data.cache_pixels = 1e-06"):
        feed(opened(photographs, cache=1e-6), WAYS["cut"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(UsageError, match="no room for the decoded pictures") as refused:
        feed(opened(photographs, cache=1))
    assert "KD_CACHE_DIR" in (refused.value.hint or "")
    assert not list((photographs.parent / "cache").rglob("*.bin"))


def test_a_damaged_file_stops_the_cache_by_name(photographs: Path, feed: Make) -> None:
    source = opened(photographs, cache=1)
    (photographs / "train" / "cat" / "2.jpg").write_bytes(b"no picture")
    with pytest.raises(BadData, match=r"train/cat/2\.jpg is not an image"):
        feed(source)
    assert not list((photographs.parent / "cache").rglob("*.bin"))


def test_shrinking_is_for_training_alone_and_another_recipe(
    photographs: Path, feed: Make, same: Same
) -> None:
    whole, shrunk = feed(opened(photographs)), feed(opened(photographs, shrink=12))
    assert not same(list(whole.train(1)), list(shrunk.train(1)))
    assert same(list(whole.split("test")), list(shrunk.split("test")))
    assert whole.info.fingerprint != shrunk.info.fingerprint


def test_ways_that_exclude_each_other(photographs: Path, feed: Make) -> None:
    for options, problem in (
        ({"resident": True, "cache_pixels": 1}, "data.cache_pixels is for pictures"),
        ({"resident": True, "shrink": 12}, "data.shrink is for pictures"),
        ({"size": 16, "shrink": 12}, "would be enlarged again"),
    ):
        with pytest.raises(UsageError, match=problem):
            load("image-folder", options=Options(path=str(photographs), **options), root=Path())
    source = opened(photographs, shrink=12)
    with pytest.raises(Incompatible, match="made of 20 pixels"):
        feed(source).showing([Sees(Preprocessing((3, 20, 20), 20, (0.5,) * 3, (0.5,) * 3))])
    for other in (source, replace(source, shrink=None, cache_gb=1)):
        with pytest.raises(Incompatible, match=r"runtime.decode is device"):
            feed(other, decode="device")
    with pytest.raises(ValueError, match="how many GB"):
        Options(path="x", cache_pixels=True)
