"""Tiny datasets written in the layouts that the real ones have."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np


def write_idx(path: Path, array: np.ndarray, *, packed: bool = False) -> None:
    """An idx file of unsigned bytes, as .gz if packed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (
        struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_mnist(root: Path, folder: str = "MNIST", *, packed: bool = False) -> None:
    """20 training and 10 test images of 28x28, image k filled with k, classes 0 to 9 in turn."""
    for part, count in (("train", 20), ("t10k", 10)):
        images = np.broadcast_to(np.arange(count)[:, None, None], (count, 28, 28))
        write_idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", images, packed=packed)
        write_idx(
            root / folder / "raw" / f"{part}-labels-idx1-ubyte",
            np.arange(count) % 10,
            packed=packed,
        )


def cifar_images(count: int) -> np.ndarray:
    """Rows [n,3072] as CIFAR stores them: red, green and blue planes of 10, 20 and 30 plus the
    image's number.
    """
    planes = np.repeat(np.array([10, 20, 30]), 1024)
    return (np.arange(count)[:, None] + planes).astype(np.uint8)


def write_cifar10(root: Path) -> None:
    """Five batches of 10 training images and 10 test images, in the layout of the original."""
    folder = root / "cifar-10-batches-py"
    images, labels = cifar_images(50), list(range(10))
    for number in range(5):
        dump(
            folder / f"data_batch_{number + 1}",
            {"data": images[number * 10 :][:10], "labels": labels, "filenames": ["a.png"] * 10},
        )
    dump(folder / "test_batch", {"data": images[:10], "labels": labels})
    dump(folder / "batches.meta", {"label_names": [f"class {number}" for number in range(10)]})


def write_cifar100(root: Path) -> None:
    """200 training and 100 test images; class k lies in superclass k mod 20."""
    folder = root / "cifar-100-python"
    for name, count in (("train", 200), ("test", 100)):
        fine = [number % 100 for number in range(count)]
        dump(
            folder / name,
            {
                "data": cifar_images(count),
                "fine_labels": fine,
                "coarse_labels": [number % 20 for number in fine],
            },
        )
    dump(folder / "meta", {"fine_label_names": [f"class {number}" for number in range(100)]})


def dump(path: Path, content: Any) -> None:
    """A pickle of protocol 2, as the originals are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
