"""MNIST and Fashion-MNIST: 28x28 grey images of ten digits or ten kinds of garment, 60,000 to train
on and 10,000 to test on.

MNIST: LeCun, Cortes and Burges. Fashion-MNIST: Xiao, Rasul and Vollgraf, arXiv:1708.07747. Read
from torchvision's folder layout (MNIST/raw and FashionMNIST/raw), the idx files unpacked or as the
.gz they are distributed in.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from kdcli.core.options import Options
from kdcli.data.fetch import fetch
from kdcli.data.source import ImageArrays
from kdcli.errors import BadData, NotFound

DATASETS: dict[str, dict[str, Any]] = {
    "mnist": {
        "summary": "28x28 grey handwritten digits",
        "classes": 10,
        "shape": [1, 28, 28],
        "train": 60000,
        "test": 10000,
        "megabytes": 53,
        "download": True,
        "places": ["MNIST/raw"],
        "augment": {},
    },
    "fashion-mnist": {
        "summary": "28x28 grey garments",
        "classes": 10,
        "shape": [1, 28, 28],
        "train": 60000,
        "test": 10000,
        "megabytes": 53,
        "download": True,
        "places": ["FashionMNIST/raw"],
        "augment": {},
    },
}

_SETS = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}
_STATISTICS = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}
_DIGITS = tuple("0123456789")


def load(name: str, *, options: Options, root: Path) -> ImageArrays:  # noqa: ARG001  all families share this signature
    """One of the two sets from `root`.

    Raises:
        NotFound: its files are not there.
        BadData: one of them is damaged.
    """
    x_train, y_train = _part(name, root, "train")
    x_test, y_test = _part(name, root, "t10k")
    mean, std = _STATISTICS[name]
    names = _DIGITS if name == "mnist" else tuple(_SETS[name].classes)
    return ImageArrays(x_train, y_train, x_test, y_test, names, (mean,), (std,))


def download(name: str, *, root: Path) -> None:
    """Fetches one of the two sets into `root`, in torchvision's layout."""
    layout = _SETS[name]
    for filename, md5 in layout.resources:
        fetch(
            [mirror + filename for mirror in layout.mirrors],
            root / layout.__name__ / "raw",
            filename=filename,
            md5=md5,
        )


def _part(name: str, root: Path, part: str) -> tuple[Tensor, Tensor]:
    folder = root / _SETS[name].__name__ / "raw"
    x = _read_idx(_find(name, root, folder / f"{part}-images-idx3-ubyte"), dimensions=3)
    y = _read_idx(_find(name, root, folder / f"{part}-labels-idx1-ubyte"), dimensions=1)
    if len(x) != len(y):
        raise BadData(
            f"{folder} holds {len(x)} {part} images but {len(y)} labels",
            hint=f"kd datasets {name} --download",
        )
    return x[:, None], y.long()


def _find(name: str, root: Path, path: Path) -> Path:
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return candidate
    raise NotFound(
        f"{name} is not under {root}: {path} is missing", hint=f"kd datasets {name} --download"
    )


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """An idx file of unsigned bytes: big-endian magic number 0x800 + dimensions, the sizes, then
    the bytes.

    Not torchvision's reader: that one takes no .gz and asserts on a truncated file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = (
            int(number) for number in np.frombuffer(content, ">u4", count=1 + dimensions)
        )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadData(
            f"{path} is not an idx file, or is damaged ({error})",
            hint="delete it and fetch it again",
        ) from error
    body = np.frombuffer(content, np.uint8, offset=4 * (1 + dimensions))
    if magic != 0x800 + dimensions or len(body) != math.prod(shape):
        raise BadData(
            f"{path} is not an idx file of {dimensions} dimensions, or is truncated",
            hint="delete it and fetch it again",
        )
    return torch.from_numpy(body.reshape(shape).copy())
