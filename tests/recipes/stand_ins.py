"""Datasets that stand in for those that are fetched: few pictures, in the layout and the shape of
the real ones, of classes that can be told apart.

A class is a colour with a coarse pattern that looks the same in a mirror, a picture of it the same
with noise. Of CIFAR-100's hundred classes ten are tested, two from each of five superclasses; the
others have one picture each to train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.unit.data.dataset_layouts import dump, write_idx

CLASSES = 10
TEST = 12  # pictures of a class
TRAIN = {"mnist": 40, "cifar10": 24, "cifar100": 32, "pictures": 16}
CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR100 = (0, 1, 25, 26, 50, 51, 75, 76, 98, 99)
_CELLS = 4  # of the pattern, along each side

Pixels = NDArray[np.uint8]


def write_all(root: Path) -> None:
    """MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 into a folder of datasets, and `pictures`, an
    image folder of 32x32.
    """
    for folder in ("MNIST", "FashionMNIST"):
        for part, count in (("train", TRAIN["mnist"]), ("t10k", TEST)):
            x, y = _pictures(part, count, range(CLASSES), channels=1, size=28)
            write_idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", x[:, 0])
            write_idx(root / folder / "raw" / f"{part}-labels-idx1-ubyte", y)
    _write_cifar10(root / "cifar-10-batches-py")
    _write_cifar100(root / "cifar-100-python")
    for part, count in (("train", TRAIN["pictures"]), ("val", TEST)):
        x, y = _pictures(part, count, range(CLASSES), channels=3, size=32)
        for number, (pixels, label) in enumerate(zip(x, y, strict=True)):
            path = root / "pictures" / part / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)


def _write_cifar10(folder: Path) -> None:
    x, y = _pictures("train", TRAIN["cifar10"], range(CLASSES), channels=3, size=32)
    for number in range(5):
        content = {"data": _rows(x[number::5]), "labels": y[number::5].tolist()}
        dump(folder / f"data_batch_{number + 1}", content)
    x, y = _pictures("test", TEST, range(CLASSES), channels=3, size=32)
    dump(folder / "test_batch", {"data": _rows(x), "labels": y.tolist()})
    dump(folder / "batches.meta", {"label_names": list(CIFAR10)})


def _write_cifar100(folder: Path) -> None:
    others = np.setdiff1d(np.arange(100), CIFAR100)
    for part, count in (("train", TRAIN["cifar100"]), ("test", TEST)):
        x, y = _pictures(part, count, CIFAR100, channels=3, size=32)
        if part == "train":
            x = np.concatenate([x, np.full((len(others), 3, 32, 32), 128, np.uint8)])
            y = np.concatenate([y, others])
        labels = {"fine_labels": y.tolist(), "coarse_labels": (y // 5).tolist()}
        dump(folder / part, {"data": _rows(x), **labels})
    dump(folder / "meta", {"fine_label_names": [f"class {k}" for k in range(100)]})


def _rows(x: Pixels) -> Pixels:
    return x.reshape(len(x), -1)


def _pictures(
    part: str, count: int, classes: Sequence[int], *, channels: int, size: int
) -> tuple[Pixels, NDArray[np.int64]]:
    """`count` pictures of each class [n,channels,size,size], and their labels [n], mixed."""
    # one generator for what classes look like, another for the noise of each part
    looks, noise = np.random.default_rng(0), np.random.default_rng([len(part), count])
    colours = looks.uniform(60, 195, (len(classes), channels, 1, 1))
    halves = looks.choice([-50.0, 50.0], (len(classes), channels, _CELLS, _CELLS // 2))
    patterns = np.concatenate([halves, halves[..., ::-1]], axis=-1)
    which = noise.permutation(np.repeat(np.arange(len(classes)), count))
    clean = np.kron(colours + patterns, np.ones((size // _CELLS, size // _CELLS)))[which]
    x = np.clip(clean + noise.normal(0, 15, clean.shape), 0, 255).astype(np.uint8)
    return x, np.asarray(classes)[which]
