"""How a picture becomes what a network takes: said by a checkpoint, and carried by its exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_LARGE = 128  # from here on pictures are photographs that are cropped; smaller ones are taken whole


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
    resized to `resize` pixels (bilinear, antialiased), the middle is cut out, [C,H,W] by
    input_shape. Pixels are divided by 255, then less `mean` and by `std`, channel by channel; a
    network with one channel takes grey, one with three takes red, green, blue. background: what
    shows through where a picture is transparent, red, green, blue, 0 to 255.
    """

    input_shape: tuple[int, int, int]
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: tuple[int, int, int] = (255, 255, 255)

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
    def takes_pictures(self) -> bool:
        """Whether the network takes pictures, grey or in colours, and not vectors."""
        channels, height, _ = self.input_shape
        return channels == 3 or (channels == 1 and height > 1)
