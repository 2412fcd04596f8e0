"""Images a second out of JPEG files, beside torchvision's ImageFolder and PyTorch's DataLoader with
as many workers, and the time to the first batch of a large folder.

The files are made by this script: pictures of 500x375 with large shapes and noise, some 60 KB each.
Both sides end with the same thing, a normalised float32 batch, and are taken in turn, one epoch
each, after one epoch that is not timed. All files are in the system's memory by then: what is
measured is decoding, not the disk.

    python -m benchmarks.files
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import figures
from kdcli.core.types import Feed
from kdcli.data.augment import Augmentation
from kdcli.data.datasets.folder import Options, load
from kdcli.data.open_feed import make_feed
from kdcli.data.source import IMAGENET_MEAN, IMAGENET_STD
from kdcli.engine.memory import keep_memory
from kdcli.results.preprocessing import shorter_side

BATCH = 64
CLASSES = 10
CUT = Augmentation(resized_crop=True, flip=True)


def make_pictures(folder: Path, count: int) -> None:
    """JPEG files of 500x375 in folders of classes, the tenth part of them to test on."""
    draws = np.random.default_rng(0)
    for number in range(count):
        part = "test" if number % 10 == 9 else "train"
        file = folder / part / f"class-{number // 10 % CLASSES}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        shapes = Image.fromarray(draws.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        large = np.asarray(shapes.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = large + draws.normal(0, 8, (375, 500, 1)).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=85)


def make_many(folder: Path, count: int) -> None:
    """Small JPEG files, the tenth part of them to test on."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / "one.jpg"
    draws = np.random.default_rng(0)
    Image.fromarray(draws.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(holder)
    content = holder.read_bytes()
    holder.unlink()
    for number in range(count):
        part = "test" if number % 10 == 9 else "train"
        file = folder / part / f"class-{number // 10 % 100}" / f"{number}.jpg"
        if number < 10 * 100:
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def torchvision_epoch(path: Path, size: int, workers: int, *, cut: bool) -> Callable[[], int]:
    """An epoch of torchvision's, as its own examples have it; gives the number of its images."""
    short = shorter_side(size, None)
    seen: list[Any] = (
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
        if cut
        else [transforms.Resize(short), transforms.CenterCrop(size)]
    )
    ending = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    loader = DataLoader(
        ImageFolder(str(path / "train"), transforms.Compose([*seen, *ending])),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda: sum(len(x) for x, _ in loader)


def open_feed(path: Path, size: int, workers: int, augment: Augmentation, **options: Any) -> Feed:
    """A folder's batches, by kd."""
    source = load("image-folder", options=Options(path=str(path), size=size, **options), root=path)
    return make_feed(
        source,
        name="files",
        batch_size=BATCH,
        eval_batch_size=BATCH,
        val_fraction=0.0,
        train_limit=None,
        augment=augment,
        seed=0,
        device="cpu",
        workers=workers,
    )


def kd_epoch(feed: Feed) -> Callable[[], int]:
    """An epoch of kd's, another one each time."""
    epochs = iter(range(1, 1 << 30))
    return lambda: sum(len(batch.x) for batch in feed.train(next(epochs)))


def interleaved(epochs: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Images a second of each in each round."""
    for epoch in epochs.values():
        epoch()
    speeds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            count = epoch()
            speeds[name].append(count / (time.perf_counter() - start))
    return speeds


def measure(path: Path, size: int, workers: int, rounds: int, *, cut: bool) -> dict[str, Any]:
    """Images a second of all ways, JSON-able."""
    augment = CUT if cut else Augmentation(flip=True)
    short = shorter_side(size, None)
    feed = functools.partial(open_feed, path, size, workers, augment)
    start = time.perf_counter()
    cached = feed(cache_pixels=100)
    filled = time.perf_counter() - start
    epochs = {
        "torchvision": torchvision_epoch(path, size, workers, cut=cut),
        "kd": kd_epoch(feed()),
        "kd, shrunken": kd_epoch(feed(shrink=short)),
        "kd, kept": kd_epoch(cached),
        "kd, shrunken, kept": kd_epoch(feed(shrink=short, cache_pixels=100)),
    }
    return {
        "size": size,
        "workers": workers,
        "augment": "random resized crop" if cut else "flip",
        "seconds_to_fill_the_cache": filled,
        "images_per_second": interleaved(epochs, rounds),
    }


def show(found: dict[str, Any]) -> None:
    """Prints medians, and ratios to torchvision's speed in the same round."""
    print(f"{found['size']} pixels, {found['augment']}, {found['workers']} workers")
    speeds = found["images_per_second"]
    for name, values in speeds.items():
        ratios = [own / other for own, other in zip(values, speeds["torchvision"], strict=True)]
        print(
            f"  {name:20} {statistics.median(values):7.0f} images/s  "
            f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def first_batch(path: Path, workers: int) -> float:
    """Seconds from nothing but imports to the first batch."""
    start = time.perf_counter()
    batches = open_feed(path, 64, workers, Augmentation(flip=True)).train(1)
    next(batches)
    return time.perf_counter() - start


@contextlib.contextmanager
def empty_cache() -> Iterator[Path]:
    """A folder for the files, and a cache of kd's of its own."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("KD_CACHE_DIR")
        os.environ["KD_CACHE_DIR"] = str(Path(folder) / "cache")
        try:
            yield Path(folder)
        finally:
            del os.environ["KD_CACHE_DIR"]
            if before is not None:
                os.environ["KD_CACHE_DIR"] = before


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.files", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--pictures", type=int, default=2000, help="files (default 2000)")
    parser.add_argument("--many", type=int, default=100_000, help="of the large folder; 0: none")
    parser.add_argument("--workers", type=int, default=2, help="on both sides (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    keep_memory()  # as kd's runs have it
    facts = figures.machine()
    figures.show_machine(facts)
    rows, firsts = [], []
    with empty_cache() as folder:
        make_pictures(folder / "pictures", options.pictures)
        for size, cut in ((64, False), (224, False), (224, True)):
            rows.append(
                measure(folder / "pictures", size, options.workers, options.rounds, cut=cut)
            )
            show(rows[-1])
        if options.many:
            make_many(folder / "many", options.many)
            firsts = [first_batch(folder / "many", options.workers) for _ in range(3)]
            print(
                f"first batch of {options.many:,} files: {statistics.median(firsts):.1f} s "
                f"({min(firsts):.1f} to {max(firsts):.1f})"
            )
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    found = {"settings": settings, "speeds": rows, "first_batch_seconds": firsts}
    figures.keep("files", facts, found, options.json)


if __name__ == "__main__":
    main()
