"""Arrays of others, checked and turned into ImageArrays.

Everything wrong with them is said here, in one sentence that names the array, before a wrong shape
or label becomes a CUDA assertion in the middle of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.core.types import UNLABELLED
from kdcli.data.source import (
    STATISTICS_HINT,
    ImageArrays,
    channel_statistics,
    statistics_problem,
)
from kdcli.errors import BadData

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_CHANNELS = (1, 3)


def from_arrays(arrays: Mapping[str, Any], *, origin: str) -> ImageArrays:
    """Pictures from arrays by name.

    Args:
        arrays: x_train, x_test: uint8 pictures [n,H,W], [n,H,W,C] or [n,C,H,W] with 1 or 3
            channels, or float vectors [n,d]; y_train, y_test: [n] integers from 0, -1
            for a sample without a label: any in y_train, and all or none in y_test. Optional:
            classes [K] names, superclass [K] integers,
            mean and std per channel (of pixels in [0, 1]), which are computed from x_train unless
            given.
        origin: a file or function, for messages.

    Raises:
        BadData: an array is missing, or has the wrong type, shape, length or values.
    """
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        has = ", ".join(sorted(arrays)) or "nothing"
        raise BadData(
            f"{origin} has no {', '.join(missing)}",
            hint=f"it has {has}; needed are {', '.join(REQUIRED)}",
        )
    x_train, x_test = (
        _inputs(np.asarray(arrays[key]), key, origin) for key in ("x_train", "x_test")
    )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise BadData(
            f"{origin}: x_train has samples of shape {_size(x_train)}, x_test of {_size(x_test)}",
            hint="make them alike",
        )
    names = _class_names(arrays, origin)
    y_train = _labels(np.asarray(arrays["y_train"]), "train", len(x_train), names, origin)
    y_test = _labels(np.asarray(arrays["y_test"]), "test", len(x_test), names, origin)
    mean, std = _statistics(arrays, x_train, origin)
    return ImageArrays(
        x_train, y_train, x_test, y_test, names, mean, std, _superclass(arrays, len(names), origin)
    )


def _size(x: Tensor) -> str:
    return "x".join(str(length) for length in x.shape[1:])


def _inputs(x: NDArray[Any], key: str, origin: str) -> Tensor:
    if x.ndim == 0 or len(x) == 0:
        raise BadData(
            f"{origin}: {key} is empty",
            hint="give it one sample at least, the first axis counts them",
        )
    if x.ndim == 2 and x.dtype.kind == "f":
        return _vectors(x, key, origin)
    if x.dtype != np.uint8:
        raise BadData(
            f"{origin}: {key} is {x.dtype} {list(x.shape)}, not uint8", hint=_as_bytes(x, key)
        )
    return torch.from_numpy(np.array(_channels_first(x, key, origin), order="C"))


def _as_bytes(x: NDArray[Any], key: str) -> str:
    """How pixels of another type become bytes: kd does not guess what white is."""
    rule = "pixels are 0 to 255 in uint8, and only vectors [n,d] may be floating point"
    if x.dtype.kind not in "iufb" or not np.isfinite(x).all() or x.min() < 0 or x.max() > 65535:
        return rule
    if x.dtype.kind == "b" or (x.dtype.kind == "f" and x.max() <= 1):
        return f'{rule}; of 0 to 1: ({key} * 255.0).round().astype("uint8")'
    if x.max() <= 255:
        return f'{rule}; of 0 to 255: {key}.astype("uint8")'
    return f'{rule}; of 16 bits: ({key}.astype("uint16") >> 8).astype("uint8")'


def _vectors(x: NDArray[Any], key: str, origin: str) -> Tensor:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        x = x.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise BadData(
            f"{origin}: {key} has NaN or infinity in {len(bad)} samples, first in number {bad[0]}",
            hint="remove or repair them",
        )
    return torch.from_numpy(np.array(x, order="C"))[:, None, None]


def _channels_first(x: NDArray[Any], key: str, origin: str) -> NDArray[Any]:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] in _CHANNELS:
        return x
    if x.ndim == 4 and x.shape[3] in _CHANNELS:
        return x.transpose(0, 3, 1, 2)
    raise BadData(
        f"{origin}: {key} has the shape {list(x.shape)}",
        hint="pictures are [n,H,W], [n,H,W,C] or [n,C,H,W], with C 1 or 3",
    )


def _class_names(arrays: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    if arrays.get("classes") is None:
        labels = np.asarray(arrays["y_train"])
        if labels.size and labels.dtype.kind == "i" and labels.min() == UNLABELLED:
            labels = np.concatenate([labels.ravel(), np.asarray(arrays["y_test"]).ravel()])
        highest = int(labels.max()) if labels.size and labels.dtype.kind in "iu" else 1
        if highest > max(labels.size, 1):  # classes are as many as the highest label says
            raise BadData(
                f"{origin}: y_train[{labels.argmax()}] is {highest}, so that {highest + 1:,} "
                f"classes would have {labels.size:,} samples",
                hint="number classes from 0, without gaps",
            )
        return tuple(str(number) for number in range(max(highest, 1) + 1))
    names = tuple(
        name.decode() if isinstance(name, bytes) else str(name)
        for name in np.asarray(arrays["classes"]).ravel()
    )
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadData(
            f"{origin}: classes has {len(names)} names, {len(set(names))} of them different",
            hint="name each class once",
        )
    return names


def _labels(y: NDArray[Any], part: str, count: int, names: tuple[str, ...], origin: str) -> Tensor:
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise BadData(
            f"{origin}: y_{part} is {y.dtype} {list(y.shape)}",
            hint="labels are integers, one a sample: [n]",
        )
    if len(y) != count:
        raise BadData(
            f"{origin}: x_{part} has {count} samples, y_{part} {len(y)} labels",
            hint="give each sample one label",
        )
    least = UNLABELLED if part == "train" or bool((y == UNLABELLED).all()) else 0
    wrong = np.flatnonzero((y < least) | (y >= len(names)))
    if len(wrong):
        at = wrong[0]
        raise BadData(
            f"{origin}: y_{part}[{at}] is {y[at]}, outside the classes 0 to {len(names) - 1}",
            hint=(
                "either all samples that are tested on have a label, or none: -1 stands for none"
                if y[at] == UNLABELLED
                else "number classes from 0"
            ),
        )
    return torch.from_numpy(y.astype(np.int64))


def _superclass(arrays: Mapping[str, Any], classes: int, origin: str) -> Tensor | None:
    if arrays.get("superclass") is None:
        return None
    value = np.asarray(arrays["superclass"])
    if value.shape != (classes,) or value.dtype.kind not in "iu" or value.min() < 0:
        raise BadData(
            f"{origin}: superclass is {value.dtype} {list(value.shape)}",
            hint=f"give one integer from 0 for each of the {classes} classes",
        )
    return torch.from_numpy(value.astype(np.int64))


def _statistics(
    arrays: Mapping[str, Any], x: Tensor, origin: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    given = [key for key in ("mean", "std") if arrays.get(key) is not None]
    if not given:
        return channel_statistics(x)
    if len(given) == 1:
        raise BadData(
            f"{origin} has {given[0]} alone", hint="give mean and std, or neither of them"
        )
    mean, std = (_numbers(np.asarray(arrays[key]), key, origin) for key in ("mean", "std"))
    if (problem := statistics_problem(mean, std, x.shape[1])) is not None:
        raise BadData(f"{origin}: {problem}", hint=STATISTICS_HINT.format(x.shape[1]))
    return mean, std


def _numbers(value: NDArray[Any], key: str, origin: str) -> tuple[float, ...]:
    if value.dtype.kind not in "iuf":
        raise BadData(
            f"{origin}: {key} is {value.dtype}", hint="give one number a channel, of pixels 0 to 1"
        )
    return tuple(float(number) for number in value.ravel())
