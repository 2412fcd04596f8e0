"""The two kinds of source that a dataset family returns: ImageArrays, held whole in memory, and
ImageFolder, read as it is needed, from image files or from larger files that hold them. Texts that
are to be sorted into classes are held whole, too.

A source knows nothing of batches, seeds or devices; kdcli.data.feed turns either into the same
stream of Batch. Pixels are kept as uint8, a quarter of float32 in memory and on the way to the
device, and are normalised there. Only inputs that are no pictures (synthetic vectors) are float32.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from kdcli.core.task import IMAGE_CLASSIFICATION
from kdcli.data.packed import Container, Packed
from kdcli.errors import BadData
from kdcli.results.preprocessing import Preprocessing
from kdcli.results.vocabulary import Vocabulary

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# raised whenever image files come to be read otherwise: what is stored of their pixels is filed
# under it
READING_RULE = 2
MOST_PIXELS = 100_000_000  # of a picture, unless a recipe says otherwise
REPLACE = "put a good picture in its place, or remove it"
_BLOCK = 1 << 24
_INPUTS = (torch.uint8, torch.float32, torch.int64)


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """A dataset that fits in memory.

    x_train, x_test: [n,C,H,W] uint8, or float32 where the inputs are no pictures (vectors are
    [n,1,1,d]), or int64 where they are tokens of texts ([n,1,1,L]).
    y_train, y_test: [n] int64, below len(class_names); in training -1 for no label. mean, std: per
    channel, of pixels in [0, 1] (of the values themselves where x is float32). superclass: [K]
    int64, or None where the classes have none. train, test: the files that the pictures are from;
    empty where they are from none. held: the last so many of the training images are a validation
    part that the dataset brings. notes: what a run says of how its files were read, a sentence
    each. task: what a network is asked of them (kdcli.tasks). vocabulary: of texts.

    Raises:
        BadData: an array is of another type or length, or mean or std is none.
    """

    x_train: Tensor = field(repr=False)
    y_train: Tensor = field(repr=False)
    x_test: Tensor = field(repr=False)
    y_test: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    superclass: Tensor | None = field(default=None, repr=False)
    train: tuple[str, ...] = field(default=(), repr=False)
    test: tuple[str, ...] = field(default=(), repr=False)
    held: int = 0
    notes: tuple[str, ...] = ()
    task: str = IMAGE_CLASSIFICATION
    vocabulary: Vocabulary | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        channels = self.x_train.shape[1]
        for part, x, y in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            if x.dtype not in _INPUTS or x.dim() != 4 or x.dtype != self.x_train.dtype:
                raise BadData(
                    f"x_{part} is {_named(x)}",
                    hint="images are uint8 [n,C,H,W], vectors float32 [n,1,1,d]",
                )
            if y.dtype != torch.int64 or y.shape != (len(x),):
                raise BadData(
                    f"y_{part} is {_named(y)}", hint=f"labels are int64 [{len(x)}], one an image"
                )
        if (problem := statistics_problem(self.mean, self.std, channels)) is not None:
            raise BadData(problem, hint=STATISTICS_HINT.format(channels))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to its pictures unless a network is to see others: they are taken whole."""
        return Preprocessing.of_data(self.input_shape, self.mean, self.std)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over content, type and shape of the four arrays."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(f"{array.dtype}{list(array.shape)}".encode())
            digest.update(_content(array))
        if self.held:
            digest.update(f"held {self.held}".encode())
        if self.vocabulary is not None:
            digest.update(self.vocabulary.sha256.encode())
        return digest.hexdigest()


def _named(array: Tensor) -> str:
    return f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"


STATISTICS_HINT = "give {} of each, finite, std above 0"


def statistics_problem(mean: Sequence[float], std: Sequence[float], channels: int) -> str | None:
    """What is wrong with the mean and standard deviation of so many channels; None if nothing."""
    if not len(mean) == len(std) == channels:
        return f"mean has {len(mean)} values and std {len(std)}, and images {channels} channels"
    for name, values, good in (
        ("mean", mean, all(map(math.isfinite, mean))),
        ("std", std, all(0 < value < math.inf for value in std)),
    ):
        if not good:
            return f"{name} is {', '.join(f'{value:g}' for value in values)}"
    return None


def _content(array: Tensor) -> bytes:
    """SHA-256 of each block of an array's bytes, one after another; blocks are hashed side by side,
    as hashlib leaves the lock.
    """
    content = array.contiguous().flatten().view(torch.uint8).numpy()
    blocks = (content[at : at + _BLOCK] for at in range(0, len(content), _BLOCK))
    with ThreadPoolExecutor() as pool:
        return b"".join(pool.map(lambda block: hashlib.sha256(block).digest(), blocks))


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Image files that are decoded each time they are needed.

    train, test: paths below `root`, or from there; those that `packed` knows are names of pictures
    in something larger, such as tables and shards. y_train, y_test: as for ImageArrays. Every
    picture is brought to `size` x `size`: its shorter side is resized to `resize` and the middle
    cut out, unless a random resized crop takes a part of the whole file. background: red, green and
    blue, 0 to 255, of what shows through transparent pictures. max_pixels: a picture of more is
    refused. held, notes: as for ImageArrays. shrink: the shorter side that pictures are brought to
    first when they are trained on; None: whole. cache_gb: GB of disk that decoded pictures may
    take; None: they are not kept.
    """

    root: Path
    train: tuple[str, ...] = field(repr=False)
    y_train: Tensor = field(repr=False)
    test: tuple[str, ...] = field(repr=False)
    y_test: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    size: int
    resize: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    max_pixels: int = MOST_PIXELS
    superclass: Tensor | None = field(default=None, repr=False)
    background: tuple[int, int, int] = (255, 255, 255)
    held: int = 0
    notes: tuple[str, ...] = ()
    packed: Container = field(default_factory=Packed, repr=False)
    shrink: int | None = None
    cache_gb: float | None = None
    task: ClassVar[str] = IMAGE_CLASSIFICATION
    vocabulary: ClassVar[None] = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return 3, self.size, self.size

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to its pictures unless a network is to see others."""
        return Preprocessing(self.input_shape, self.resize, self.mean, self.std, self.background)

    def file(self, path: str) -> Path | BytesIO:
        """A picture as Pillow opens it: its file, or its content out of a larger one.

        Raises:
            BadData: the larger file is not what it was.
        """
        return BytesIO(self.packed.read(path)) if path in self.packed else self.root / path

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over names, labels and sizes in bytes of the files, not their content:
        reading ImageNet takes too long.

        Raises:
            BadData: a file is no longer there.
        """
        drawn = f"{self.size} {self.resize} {self.background} {self.held} {READING_RULE}\n"
        if self.shrink is not None:
            drawn = f"shrink {self.shrink} {drawn}"
        digest = hashlib.sha256(drawn.encode())
        for paths, labels in ((self.train, self.y_train), (self.test, self.y_test)):
            for path, label in zip(paths, labels.tolist(), strict=True):
                line = f"{label} {self._bytes(path)} {path}\n"
                digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _bytes(self, path: str) -> int:
        if path in self.packed:
            return self.packed.size(path)
        return _size(os.path.join(self.root, path))  # noqa: PTH118  as in _size


def _size(path: str) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116  a Path for each of a million files takes seconds
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}", hint=REPLACE) from error
    if not stat.S_ISREG(status.st_mode):
        raise BadData(f"{path} is no regular file", hint=REPLACE)
    return status.st_size


Source = ImageArrays | ImageFolder


def pixel_statistics(
    mean: Sequence[float], std: Sequence[float], scale: float = 255.0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, [C,1,1] float32, of pixels of 0 to `scale`:
    pixels less the one, divided by the other, are what networks take.

    Args:
        mean, std: of pixels in [0, 1].
    """
    # rounded once; subtraction and division round alike everywhere, and a fused multiply-add on a
    # GPU would not
    scaled = torch.tensor([mean, std], dtype=torch.float64) * scale
    return scaled[0].float().view(-1, 1, 1), scaled[1].float().view(-1, 1, 1)


def channel_statistics(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of x [n,C,H,W], of pixels in [0, 1] where x is
    uint8.

    Rounded to six places, so that they read well in a recipe and do not depend on the order of
    summation. A channel that never varies gets a standard deviation of 1: it is then only shifted.
    """
    moments = [_moments(x[:, channel]) for channel in range(x.shape[1])]
    return tuple(round(mean, 6) for mean, _ in moments), tuple(
        round(std, 6) or 1.0 for _, std in moments
    )


def _moments(values: Tensor) -> tuple[float, float]:
    if values.dtype != torch.uint8:
        return values.double().mean().item(), values.double().std(correction=0).item()
    # a histogram of 256 levels is exact and needs no float copy of the whole set
    counts = torch.bincount(values.flatten(), minlength=256).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * levels).sum() / counts.sum()
    variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
    return mean.item(), variance.sqrt().item()
