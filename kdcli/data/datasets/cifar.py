"""CIFAR-10 and CIFAR-100: 32x32 colour photographs, 50,000 to train on and 10,000 to test on.

Krizhevsky: Learning multiple layers of features from tiny images, 2009. Read from the distributed
folders (cifar-10-batches-py, cifar-100-python); CIFAR-10 also from cifar10/cifar10.npz. The
distributed files are pickles, which in general run code when loaded: here they are read by an
unpickler that knows arrays and nothing else.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from kdcli.core.options import Options
from kdcli.data.arrays import from_arrays
from kdcli.data.datasets.npz import read
from kdcli.data.fetch import fetch
from kdcli.data.source import ImageArrays
from kdcli.errors import BadData, NotFound

DATASETS: dict[str, dict[str, Any]] = {
    "cifar10": {
        "summary": "32x32 photographs of ten kinds of animal and vehicle",
        "classes": 10,
        "shape": [3, 32, 32],
        "train": 50000,
        "test": 10000,
        "megabytes": 170,
        "download": True,
        "places": ["cifar-10-batches-py", "cifar10/cifar10.npz"],
        "augment": {"crop": 4, "flip": True},
    },
    "cifar100": {
        "summary": "32x32 photographs of a hundred classes in twenty superclasses",
        "classes": 100,
        "shape": [3, 32, 32],
        "train": 50000,
        "test": 10000,
        "megabytes": 169,
        "download": True,
        "places": ["cifar-100-python"],
        "augment": {"crop": 4, "flip": True},
    },
}

_SETS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
_STATISTICS = {
    "cifar10": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
    "cifar100": {"mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)},
}


def load(name: str, *, options: Options, root: Path) -> ImageArrays:  # noqa: ARG001  all families share this signature
    """One of the two sets from `root`.

    Raises:
        NotFound: its files are not there.
        BadData: one of them is damaged, or holds something that is not an array.
    """
    npz = root / "cifar10" / "cifar10.npz"
    if name == "cifar10" and npz.is_file():
        return from_arrays(read(npz) | _STATISTICS[name], origin=str(npz))
    folder = root / _SETS[name].base_folder
    arrays = _batches(name, root) | _STATISTICS[name]
    return from_arrays(arrays, origin=str(folder))


def download(name: str, *, root: Path) -> None:
    """Fetches one of the two sets into `root`, in torchvision's layout."""
    layout = _SETS[name]
    fetch([layout.url], root, filename=layout.filename, md5=layout.tgz_md5)


def _batches(name: str, root: Path) -> dict[str, Any]:
    layout = _SETS[name]
    folder = root / layout.base_folder
    train, test = (
        _Part(name, root, folder, [file for file, _ in files])
        for files in (layout.train_list, layout.test_list)
    )
    classes = _entry(
        _unpickle(name, root, folder / layout.meta["filename"]), folder, layout.meta["key"]
    )
    arrays = {
        "x_train": train.pixels,
        "y_train": train.labels,
        "x_test": test.pixels,
        "y_test": test.labels,
        "classes": classes,
    }
    return (
        arrays
        if train.coarse is None
        else arrays | {"superclass": _superclasses(train.labels, train.coarse, folder)}
    )


class _Part:
    """The training or test part, its files joined: pixels [n,3,32,32] uint8, labels [n], coarse [n]
    for CIFAR-100.
    """

    def __init__(self, name: str, root: Path, folder: Path, files: Sequence[str]) -> None:
        contents = [_unpickle(name, root, folder / file) for file in files]
        fine = name == "cifar100"
        try:
            self.pixels = np.concatenate(
                [_entry(content, folder, "data") for content in contents]
            ).reshape(-1, 3, 32, 32)
        except ValueError as error:
            raise BadData(
                f"{folder} does not hold {name}: {error}",
                hint=f"delete it, then: kd datasets {name} --download",
            ) from error
        self.labels = np.concatenate(
            [_entry(content, folder, "fine_labels" if fine else "labels") for content in contents]
        )
        self.coarse = (
            np.concatenate([_entry(content, folder, "coarse_labels") for content in contents])
            if fine
            else None
        )


def _entry(content: Any, folder: Path, key: str) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise BadData(
            f"a file in {folder} has no {key!r}: it is not CIFAR in Python's layout",
            hint="delete the folder and fetch it again",
        )
    return content[key]


def _superclasses(fine: NDArray[Any], coarse: NDArray[Any], folder: Path) -> NDArray[Any]:
    """The superclass of each class [K], from the two labels that every image carries."""
    table = np.zeros(int(fine.max()) + 1, np.int64)
    table[fine] = coarse
    if not np.array_equal(table[fine], coarse):
        raise BadData(
            f"{folder}: images of one class lie in different superclasses",
            hint="delete the folder and fetch it again",
        )
    return table


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds arrays and Python's own literals; anything else that a file asks for is refused
    before it is called.
    """

    # wherever this NumPy keeps it
    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,  # how protocol 2 spells bytes
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _unpickle(name: str, root: Path, path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise NotFound(
            f"{name} is not under {root}: {path} is missing", hint=f"kd datasets {name} --download"
        ) from error
    # a damaged pickle fails in any way: EOFError, KeyError, IndexError, MemoryError, ...
    except Exception as error:
        raise BadData(
            f"{path} is damaged, or is no file of CIFAR ({error})",
            hint="delete it and fetch it again",
        ) from error
