"""Datasets of users: what a `path/to/file.py:function` of theirs may return.

Arrays; a Dataset of PyTorch's kind (torchvision's are), or several of them; DataLoaders; a dataset
of Hugging Face's or a DatasetDict. Datasets of PyTorch's and loaders are read through once into
memory, as far as data.max_gb lets them; where the pictures are Pillow's and too many or of
different sizes, they are asked for as they are needed, as Hugging Face's are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from kdcli.core import random
from kdcli.core.options import Options as _Options
from kdcli.core.options import PictureOptions
from kdcli.data.arranged import Arranged, PartName, TestShare
from kdcli.data.arrays import REQUIRED, from_arrays
from kdcli.data.bounds import check_memory
from kdcli.data.indexed import HuggingFaceRows, TorchItems
from kdcli.data.picture_files import checked, image_folder
from kdcli.data.picture_rows import (
    Rows,
    arrange_rows,
    choose_columns,
    label_of,
    part_of,
    said_of_columns,
    words_of_rows,
)
from kdcli.data.source import ImageArrays, ImageFolder, Source
from kdcli.errors import BadData, Interrupted, KdError, Terminated, UsageError

Parts = dict[PartName, Any]


class Options(_Options):
    """[data] of path/to/file.py:function."""

    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of each class that is tested on, of a single dataset.",
    )
    test_seed: int | None = Field(
        None, ge=0, description="Which share that is: each number draws another one."
    )
    size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Width and height of pictures that are read one by one; 224 unless given.",
    )
    image: str | None = Field(
        None, description="Column of the pictures in a dataset of Hugging Face's; found if it can."
    )
    label: str | None = Field(
        None, description="Column of the labels in a dataset of Hugging Face's; found if it can."
    )
    max_gb: float = Field(
        8.0, gt=0, description="Read no more GB than this into memory: a bound, no target."
    )


_RETURNS = (
    f"return a dict or tuple of {', '.join(REQUIRED)}, a Dataset or DataLoader for train and one "
    "for test, or a DatasetDict"
)
# torchvision's names for the labels of all samples
_LABELS = ("targets", "labels", "_labels")


def from_user(
    value: Any, *, origin: str = "the dataset's function", options: Options | None = None
) -> Source:
    """A source from what a user's function returned.

    Args:
        value: Pictures, a Folder, a mapping as for `from_arrays`, or the tuple (x_train, y_train,
            x_test, y_test); (train, test) or (train, val, test), or a mapping of these names, of
            datasets or loaders; or a single dataset, of which a part is drawn.
        origin: for messages.

    Raises:
        BadData: it is none of these, or an array or sample in it is not as it must be. UsageError:
            a test part is to be drawn, and there is one; it takes more memory than it may.
    """
    options = options or Options()
    if isinstance(value, ImageArrays | ImageFolder):
        return value
    parts = _parts(value)
    if parts is None:
        if isinstance(value, Mapping):
            return from_arrays(value, origin=origin)
        if isinstance(value, tuple | list) and len(value) == len(REQUIRED):
            return from_arrays(dict(zip(REQUIRED, value, strict=True)), origin=origin)
        raise BadData(f"{origin} returned {type(value).__name__}", hint=_RETURNS)
    if all(_is_hugging_face(part) for part in parts.values()):
        return _hugging_face(parts, origin, options)
    return _torch(parts, origin, options)


# ---- what it is ----------------------------------------------------------------------------------


def _parts(value: Any) -> Parts | None:
    """The datasets of each part; None where it is something else."""
    if _is_dataset(value):
        return {"train": value}
    if isinstance(value, Mapping):
        found = {part_of(str(key)): item for key, item in value.items()}
        named = {part: item for part, item in found.items() if part is not None}
        good = "train" in named and all(_is_dataset(item) for item in named.values())
        return named if good else None
    if isinstance(value, tuple | list) and all(_is_dataset(item) for item in value):
        names: tuple[PartName, ...] = ("train", "val", "test")
        if len(value) in {2, 3}:
            return dict(zip(names if len(value) == 3 else names[::2], value, strict=True))
    return None


def _is_hugging_face(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "datasets" and hasattr(value, "features")


def _is_dataset(value: Any) -> bool:
    """Whether it is a dataset of samples, or a loader, and no array."""
    data = torch.utils.data
    if isinstance(value, data.Dataset | data.DataLoader) or _is_hugging_face(value):
        return True
    plain = isinstance(value, Mapping | Sequence | np.ndarray | torch.Tensor)
    return not plain and hasattr(value, "__getitem__") and hasattr(value, "__len__")


# ---- Hugging Face's ------------------------------------------------------------------------------


def _hugging_face(parts: Parts, origin: str, options: Options) -> Source:
    from datasets import ClassLabel, Image

    rows: dict[str, Any] = {}
    names: list[str] = []
    labels: list[str | None] = []
    told: list[str] = []
    order: Sequence[str] | None = None
    chosen: dict[str, str] = {}
    for part, dataset in parts.items():
        if not hasattr(dataset, "__getitem__"):
            raise BadData(
                f"{origin} returned a dataset that is streamed, which has no numbers",
                hint="load it without streaming=True",
            )
        features = dataset.features
        likely = {
            key: next(iter(of_kind))
            for key, kind in (("image", Image), ("label", ClassLabel))
            if len(of_kind := [n for n, each in features.items() if isinstance(each, kind)]) == 1
        }
        asked = {"image": options.image, "label": options.label}
        chosen = choose_columns(list(features), asked, Path(origin), likely)
        image, label = chosen["image"], chosen["label"]
        if not isinstance(features[image], Image):
            raise BadData(
                f"{origin}: column {image!r} of {part} is {features[image]}, no image",
                hint=f'dataset.cast_column("{image}", datasets.Image())',
            )
        if isinstance(features[label], ClassLabel):
            order = tuple(features[label].names)
        rows[part] = dataset.select_columns([image]).cast_column(image, Image(decode=False))
        found = dataset.select_columns([label]).with_format(None)[:][label]
        names += [f"{part}#{row}" for row in range(len(found))]
        labels += [
            label_of(cell, order, f"{origin}: row {row} of {part}", label)
            for row, cell in enumerate(found)
        ]
        told += [part] * len(found)
    said = (said_of_columns(chosen),)
    table = Rows(names, labels, told if len(parts) > 1 else None, names, order, said)
    arranged = _arranged(table, origin, options)
    pictures = _picture_options(options)
    folder = image_folder(Path(), arranged, pictures, HuggingFaceRows(rows, chosen["image"]))
    return checked(folder, arranged, pictures, "kd check --data")


def _arranged(rows: Rows, origin: str, options: Options) -> Arranged:
    words = words_of_rows(Path(origin), "return a dataset for train and one for test")
    return arrange_rows(
        rows, Path(origin), TestShare(options.test_fraction, options.test_seed), words
    )


def _picture_options(options: Options) -> PictureOptions:
    size = options.size or 224
    return PictureOptions(path="", size=size, resize=size)


# ---- PyTorch's -----------------------------------------------------------------------------------


class _OneByOne(Exception):
    """The pictures of a dataset are not to be held in memory."""


def _torch(parts: Parts, origin: str, options: Options) -> Source:
    try:
        # loaders that shuffle, and transforms that draw, give every process the same samples
        with random.seeded(0, "own data"):
            held = {part: _held(dataset, part, origin, options) for part, dataset in parts.items()}
    except _OneByOne:
        return _one_by_one(parts, origin, options)
    classes = _classes(parts["train"])
    names = [f"{part}#{row}" for part, (x, _) in held.items() for row in range(len(x))]
    numbers = np.concatenate([y for _, y in held.values()])
    order = _order(numbers, classes, origin)
    told = [part for part, (x, _) in held.items() for _ in range(len(x))]
    labels = [order[number] for number in numbers.tolist()]
    rows = Rows(names, labels, told if len(parts) > 1 else None, names, order)
    found = _arranged(rows, origin, options)
    folder = image_folder(Path(), found, _picture_options(options))
    if stopping := [problem for problem in found.problems if problem.stops]:
        raise BadData(stopping[0].message, hint=stopping[0].hint)
    at = {name: row for row, name in enumerate(names)}
    every = np.concatenate([x for x, _ in held.values()])
    chosen = {part: [at[name] for name in getattr(folder, part)] for part in ("train", "test")}
    arrays = {
        "x_train": every[chosen["train"]],
        "y_train": folder.y_train.numpy(),
        "x_test": every[chosen["test"]],
        "y_test": folder.y_test.numpy(),
        "classes": list(found.class_names),
    }
    return replace(from_arrays(arrays, origin=origin), held=folder.held, notes=found.notes)


def _classes(dataset: Any) -> list[str] | None:
    """The names of its classes, where it or what it is a part of says them."""
    while dataset is not None:
        names = getattr(dataset, "classes", None)
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return list(names) if len(set(names)) == len(names) else None
        dataset = getattr(dataset, "dataset", None)
    return None


def _order(numbers: NDArray[Any], classes: list[str] | None, origin: str) -> list[str]:
    """The name of each class."""
    if len(numbers) == 0 or numbers.min() < 0:
        raise BadData(
            f"{origin}: a label is {numbers.min() if len(numbers) else 'missing'}",
            hint="number classes from 0",
        )
    most = int(numbers.max())
    if most > len(numbers):
        raise BadData(
            f"{origin}: a label is {most}, and there are {len(numbers):,} samples",
            hint="number classes from 0, without gaps",
        )
    if classes is not None and most < len(classes):
        return classes
    return [str(number) for number in range(most + 1)]


def _held(
    dataset: Any, part: str, origin: str, options: Options
) -> tuple[NDArray[Any], NDArray[Any]]:
    """All samples of a part: x [n,...] and y [n].

    Raises:
        _OneByOne: they are pictures of different sizes, or too many.
    """
    what = f"{part} of {origin}"
    loader = isinstance(dataset, torch.utils.data.DataLoader)
    batches = _batches(dataset, what) if loader else _samples(dataset, what)
    length = len(dataset) if not loader and hasattr(dataset, "__len__") else 0
    xs: list[NDArray[Any]] = []
    ys: list[NDArray[Any]] = []
    size = 0
    for x, y, picture in batches:
        if xs and (x.shape[1:] != xs[0].shape[1:] or x.dtype != xs[0].dtype):
            if picture:
                raise _OneByOne
            raise BadData(
                f"{what}: a sample is {x.dtype} {list(x.shape[1:])}, and those before it "
                f"{xs[0].dtype} {list(xs[0].shape[1:])}",
                hint="bring all to one size: torchvision.transforms.v2.Resize, CenterCrop",
            )
        size += x.nbytes
        whole = x.nbytes * length if length and not xs else size
        if picture and whole > options.max_gb * 1e9:
            raise _OneByOne
        if whole > options.max_gb * 1e9 or not xs:
            check_memory(whole, options.max_gb, what, "return fewer or smaller samples")
        xs.append(x)
        ys.append(y)
    if not xs:
        raise BadData(f"{what} is empty", hint="give it one sample at least")
    return np.concatenate(xs), np.concatenate(ys)


Read = Iterator[tuple[NDArray[Any], NDArray[Any], bool]]


def _samples(dataset: Any, what: str) -> Read:
    """The samples of a dataset one by one: x [1,...], y [1], and whether it is a Pillow image."""
    counted = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    items = (dataset[number] for number in range(len(dataset))) if counted else iter(dataset)
    for number, item in enumerate(_asked(items, what)):
        x, y = _pair(item, f"sample {number} of {what}")
        picture = hasattr(x, "convert")
        if picture:
            x = np.asarray(x.convert("L" if x.mode == "L" else "RGB"))
            pixels: NDArray[Any] = x[None, None] if x.ndim == 2 else x.transpose(2, 0, 1)[None]
        else:
            pixels = _pixels(np.asarray(x)[None], f"sample {number} of {what}")
        yield pixels, _numbers(np.asarray(y).reshape(1), what), picture


def _batches(loader: Any, what: str) -> Read:
    """The batches of a loader: x [B,...] and y [B]."""
    for number, item in enumerate(_asked(loader, what)):
        x, y = _pair(item, f"batch {number} of {what}")
        labels = _numbers(np.asarray(y).reshape(-1), what)
        pixels = _pixels(np.asarray(x), f"batch {number} of {what}")
        if len(pixels) != len(labels):
            raise BadData(
                f"batch {number} of {what} has {len(pixels)} samples and {len(labels)} labels",
                hint="give each sample one label",
            )
        yield pixels, labels, False


def _asked(items: Iterable[Any], what: str) -> Iterator[Any]:
    """Items of somebody else's code, which may raise whatever it likes."""
    try:
        yield from items
    except (KdError, Interrupted, Terminated):
        raise
    except Exception as error:
        raise UsageError(
            f"{what} failed: {type(error).__name__}: {error}", hint="its own code raised this"
        ) from error


def _pair(item: Any, what: str) -> tuple[Any, Any]:
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    if isinstance(item, Mapping):
        x = next((item[key] for key in ("pixel_values", "image", "x") if key in item), None)
        y = next((item[key] for key in ("labels", "label", "y") if key in item), None)
        if x is not None and y is not None:
            return x, y
    raise BadData(f"{what} is {type(item).__name__}, no picture with a label", hint=_ITEM)


_ITEM = "an item is a pair: picture and label"


def _numbers(labels: NDArray[Any], what: str) -> NDArray[Any]:
    if labels.dtype.kind not in "iu":
        raise BadData(
            f"{what}: labels are {labels.dtype}, not whole numbers", hint="number classes from 0"
        )
    return labels.astype(np.int64)


def _pixels(x: NDArray[Any], what: str) -> NDArray[Any]:
    """Pictures [B,...] as bytes, where they are not; vectors [B,d] as they are."""
    if x.dtype == np.uint8 or x.ndim < 3:
        return x
    if x.dtype.kind != "f":
        raise BadData(f"{what} is {x.dtype}", hint="pixels are uint8, or floating point of 0 to 1")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):  # NaN neither
        raise BadData(
            f"{what} has pixels from {low:.3g} to {high:.3g}, not from 0 to 1",
            hint="leave Normalize out of its transforms: kd normalises, and augments, itself",
        )
    return np.rint(x * 255.0).astype(np.uint8)


def _one_by_one(parts: Parts, origin: str, options: Options) -> Source:
    """Datasets of Pillow images that are asked for as they are needed."""
    classes = _classes(parts["train"])
    numbers = {part: _all_labels(dataset, part, origin) for part, dataset in parts.items()}
    every = np.concatenate(list(numbers.values()))
    order = _order(every, classes, origin)
    names = [f"{part}#{row}" for part, found in numbers.items() for row in range(len(found))]
    told = [part for part, found in numbers.items() for _ in range(len(found))]
    labels = [order[number] for number in every.tolist()]
    rows = Rows(names, labels, told if len(parts) > 1 else None, names, order)
    found = _arranged(rows, origin, options)
    note = "pictures are asked for as they are needed: they are many, or of different sizes"
    found = replace(found, notes=(note, *found.notes))
    pictures = _picture_options(options)
    items = {str(part): dataset for part, dataset in parts.items()}
    folder = image_folder(Path(), found, pictures, TorchItems(items))
    return checked(folder, found, pictures, "kd check --data")


def _all_labels(dataset: Any, part: str, origin: str) -> NDArray[Any]:
    """The label of each sample, without its picture where the dataset knows them."""
    known = _known_labels(dataset)
    if known is not None:
        return known
    what = f"{part} of {origin}"
    return np.concatenate([y for _, y, _ in _samples(dataset, what)])


def _known_labels(dataset: Any) -> NDArray[Any] | None:
    inner, indices = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if inner is not None and indices is not None:  # a Subset
        within = _known_labels(inner)
        return None if within is None else within[np.asarray(indices, dtype=np.int64)]
    for name in _LABELS:
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):
            labels = np.asarray(found)
            if labels.dtype.kind in "iu" and labels.ndim == 1:
                return labels.astype(np.int64)
    return None
