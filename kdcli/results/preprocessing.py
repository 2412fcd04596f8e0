"""How a picture becomes what a network takes: said by a checkpoint, and carried by its exports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

_LARGE = 128  # from here on pictures are photographs that are cropped; smaller ones are taken whole

# the shorter side in pixels, or height and width whatever a picture's shape is
Resize = int | tuple[int, int]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
LARGEST_SIDE = 1 << 14  # pixels of a side that a network sees, or that a picture is resized to
Resampler = Literal["torchvision", "pillow"]


def shorter_side(size: int, resize: int | None) -> int:
    """The shorter side in pixels that a picture is resized to before the middle of `size` is cut
    out: as asked for, and at least that size.
    """
    if resize is not None:
        return max(resize, size)
    return round(size * 256 / 224) if size >= _LARGE else size


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a picture file to the input of a network.

    The picture is read as a viewer shows it (docs/reference/pictures.md), its shorter side is
    resized to `resize` pixels (or both sides to two numbers, whatever its shape), the middle is cut
    out, [C,H,W] by input_shape. Pixels are divided by 255, then less `mean` and by `std`, channel
    by channel; a network with one channel takes grey, one with three takes red, green, blue.
    background: what shows through where a picture is transparent, red, green, blue, 0 to 255.
    interpolation: of resizing, antialiased. resampler: whose arithmetic that is; two of them differ
    by a level of 255 in some pixels.
    """

    input_shape: tuple[int, int, int]
    resize: Resize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: tuple[int, int, int] = (255, 255, 255)
    interpolation: Interpolation = "bilinear"
    resampler: Resampler = "torchvision"

    @classmethod
    def of_data(
        cls,
        input_shape: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        options: Any = None,
    ) -> Preprocessing:
        """What a network trained on some data takes.

        Args:
            options: of data that are picture files (size, resize, background); None for
                others, where a picture is taken as whole as it can be.
        """
        channels, height, width = input_shape
        shape = (channels, height, width)
        if options is None:
            return cls(shape, max(height, width), tuple(mean), tuple(std))
        return cls(
            shape,
            shorter_side(options.size, options.resize),
            tuple(mean),
            tuple(std),
            tuple(options.background),
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.input_shape[1:]

    @property
    def sides(self) -> tuple[int, ...]:
        """What `resize` says, one number or two."""
        return self.resize if isinstance(self.resize, tuple) else (self.resize,)

    def geometry(self) -> tuple[object, ...]:
        """All that decides its pixels of 0 to 255, from a picture that was read."""
        return self.input_shape, self.resize, self.interpolation, self.resampler

    @property
    def takes_pictures(self) -> bool:
        """Whether the network takes pictures, grey or in colours, and not vectors."""
        channels, height, _ = self.input_shape
        return channels == 3 or (channels == 1 and height > 1)


@dataclass(frozen=True, slots=True)
class Sight:
    """What a network, its library or a recipe says of the pixels that the network is to see; None:
    nothing. channels, size (height, width), and the others as in `Preprocessing`.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    resize: Resize | None = None
    interpolation: Interpolation | None = None
    resampler: Resampler | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        for name, wrong in {
            "size": self.size and not all(0 < side <= LARGEST_SIDE for side in self.size),
            "resize": self.resize and not all(0 < side <= LARGEST_SIDE for side in sides if side),
            "mean": self.mean and not all(map(math.isfinite, self.mean)),
            "std": self.std and not all(0 < value < math.inf for value in self.std),
        }.items():
            if wrong:
                raise ValueError(f"{name} is {getattr(self, name)}")

    def over(self, other: Sight) -> Sight:
        """What this one says, and where it says nothing, what another says. A size alone brings the
        other's resizing in proportion: the same part of a picture is seen.
        """
        said = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        if self.size and self.resize is None and other.size and other.resize:
            said["resize"] = _in_proportion(other.resize, other.size, self.size)
        return replace(other, **said)

    def on(self, data: Preprocessing) -> Preprocessing:
        """The pixels of a network on some data: as these are where nothing is said."""
        channels, size = self.channels or data.input_shape[0], self.size or data.size
        return Preprocessing(
            (channels, *size),
            self.resize or _in_proportion(data.resize, data.size, size),
            _of_channels(self.mean or data.mean, channels),
            _of_channels(self.std or data.std, channels),
            data.background,
            self.interpolation or data.interpolation,
            self.resampler or data.resampler,
        )


def _in_proportion(resize: Resize, size: tuple[int, int], other: tuple[int, int]) -> Resize:
    """What pictures are resized to before another size is cut out, that the same part is."""
    if size == other:
        return resize
    if isinstance(resize, tuple):
        return (
            max(round(resize[0] * other[0] / size[0]), other[0]),
            max(round(resize[1] * other[1] / size[1]), other[1]),
        )
    return max(round(resize * min(other) / min(size)), *other)


def _of_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One value a channel; grey's own for each where grey is repeated."""
    return values * channels if len(values) == 1 else values
