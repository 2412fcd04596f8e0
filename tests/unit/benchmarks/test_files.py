"""The benchmark of image files: both sides read the same pictures, and its cache is its own."""

from __future__ import annotations

import os

from benchmarks.files import empty_cache, first_batch, make_many, make_pictures, measure


def test_all_ways_read_every_picture_and_are_set_beside_torchvision() -> None:
    before = os.environ.get("KD_CACHE_DIR")
    with empty_cache() as folder:
        make_pictures(folder / "pictures", 20)
        found = measure(folder / "pictures", 16, 0, 1, cut=True)
        assert set(found["images_per_second"]) > {"torchvision", "kd", "kd, kept"}
        assert all(speed > 0 for (speed,) in found["images_per_second"].values())
        assert list((folder / "cache" / "pixels").glob("*.bin"))
        make_many(folder / "many", 100)
        assert first_batch(folder / "many", 0) > 0
    assert os.environ.get("KD_CACHE_DIR") == before
