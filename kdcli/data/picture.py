"""A picture as a viewer shows it: the one place where the content of an image file becomes
[3,h,w] uint8.

Turned as its EXIF orientation says, the first frame where there are several, transparency laid over
a background, the upper 8 of 16 bits, palettes, grey and CMYK as RGB. Colour profiles are not
applied. What has no one right reading is refused by name. docs/reference/pictures.md says the same
to users.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdcli.data.source import MOST_PIXELS

# how the names of the files end that are taken for pictures; what they hold decides how it is read
SUFFIXES = (
    ".bmp",
    ".gif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".mpo",
    ".pbm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)

_ORIENTATION = 0x0112  # the tag of EXIF
_EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# near the end of a file: other programs append to it
_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\x00;"}
_TAIL = 1024  # bytes
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_AS_RGB = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"}
_SIXTEEN_BITS = {"PNG", "PPM"}  # formats that Pillow may open as "I", and that hold no more

# Pillow's own bound, which no recipe can raise: the one of `opened` stands in its place
Image.MAX_IMAGE_PIXELS = None
# Pillow's remarks on odd files are for programmers; what cannot be read raises
warnings.filterwarnings("ignore", module=r"PIL\.")


class CannotRead(ValueError):
    """A picture that has no one right reading; the message ends a sentence that begins with the
    file.
    """


@dataclass(frozen=True, slots=True)
class Kind:
    """What the header of a file says. short: the shorter side, in pixels. deep: 16 bits a channel.
    frames: more than one of them.
    """

    short: int
    deep: bool
    frames: bool


@contextmanager
def opened(file: Path | BytesIO, most: int = MOST_PIXELS) -> Iterator[Image.Image]:
    """An image file whose header has been read.

    Args:
        file: where it is, or its content where it lies in a larger file.
        most: pixels that it may have: a file of some kilobytes may hold gigabytes of one colour.

    Raises:
        CannotRead: it is no file, or has more pixels. OSError, or whatever else Pillow raises: it
            cannot be read.
    """
    # before it is opened: whoever opens a pipe waits until somebody writes
    if isinstance(file, Path) and not stat.S_ISREG(os.stat(file).st_mode):  # noqa: PTH116  beside the next line, of the same cost
        raise CannotRead("is no regular file")
    with Image.open(file) as image:
        width, height = image.size
        if width * height > most:
            raise CannotRead(
                f"has {width:,} x {height:,} pixels, more than data.max_pixels = {most:,}"
            )
        yield image


def kind_of(image: Image.Image) -> Kind:
    """What is known of a picture before it is decoded.

    Raises:
        CannotRead: it has no one right reading, and the header tells.
    """
    _check(image)
    return Kind(min(image.size), _deep(image), bool(getattr(image, "is_animated", False)))


def looks_whole(image: Image.Image, file: Path | BytesIO) -> bool:
    """Tells whether a file ends as one of its format does; False where a format has no such mark.

    What was cut off, as by a broken download, does not: a cheap look, and no proof of either.
    """
    mark = _END_MARKS.get(image.format or "")
    if mark is None:
        return False
    if isinstance(file, BytesIO):
        return mark in file.getbuffer()[-_TAIL:].tobytes()
    with file.open("rb") as handle:
        handle.seek(-min(handle.seek(0, os.SEEK_END), _TAIL), os.SEEK_END)
        return mark in handle.read()


def scale_down(image: Image.Image, side: int) -> None:
    """Has the shorter side of a JPEG file that was opened decoded in fewer pixels, `side` or more:
    a half, a quarter or an eighth, which its own transform gives. Others stay as they are.
    """
    image.draft(None, (side, side))  # both sides are that long at least


def shown(image: Image.Image, background: Colour = WHITE) -> Tensor:
    """A picture as a viewer shows it, [3,h,w] uint8, the colours of a pixel side by side in memory.

    Args:
        background: what shows through where the picture is transparent: red, green, blue, 0 to 255.

    Raises:
        CannotRead: it has no one right reading. OSError, or whatever else Pillow raises: it is
            damaged.
    """
    _check(image)
    image.load()
    turn = _TURNS.get(_orientation(image))  # not before: Pillow turns a TIFF as it loads it
    eight = _eight_bits(image)
    if _transparent(eight):
        over = eight.convert("RGBA")
        eight = Image.alpha_composite(Image.new("RGBA", over.size, (*background, 255)), over)
    rgb = eight if eight.mode == "RGB" else eight.convert("RGB")
    upright = rgb if turn is None else rgb.transpose(turn)
    # row by row, with the three colours of a pixel side by side, as decoders leave them and as
    # resizing is fastest
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1)


def in_colour(image: Image.Image) -> bool:
    """Tells whether an image file holds colours, and not grey or black and white alone."""
    return image.mode not in {"1", "L", "LA", "La", "F"} and not image.mode.startswith("I")


def is_plain_jpeg(image: Image.Image) -> bool:
    """Tells whether any decoder of JPEG files gives the pixels that `shown` gives: upright, grey or
    YCbCr. Others may not know of EXIF, or of CMYK and RGB in a JPEG file.
    """
    if image.format not in {"JPEG", "MPO"} or image.mode not in {"L", "RGB"}:
        return False
    components = bytes(layer[0] for layer in image.layer)  # type: ignore[attr-defined]
    in_rgb = image.info.get("adobe_transform") == 0 or components == b"RGB"
    return not (in_rgb and image.mode == "RGB") and _orientation(image) not in _TURNS


def _check(image: Image.Image) -> None:
    mode = image.mode
    if mode == "I" and image.format not in _SIXTEEN_BITS:
        raise CannotRead("holds 32-bit integers, of which nothing says what is black and white")
    if mode not in _AS_RGB | _WITH_ALPHA | {"I", "F"} and not mode.startswith("I;16"):
        raise CannotRead(f"holds colours of a kind that is not read ({mode})")
    if mode == "RGB" and "transparency" in image.info and _deep(image):
        raise CannotRead("holds 16-bit colours with one of them transparent")


def _deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ""))


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where nothing is said or what is said is damaged."""
    if image.format != "TIFF" and not _EXIF & image.info.keys():  # to look it up takes long
        return 1
    try:
        found: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  EXIF is written by all kinds of programs; a viewer ignores what it cannot read
        return 1
    return found if found in _TURNS else 1


def _transparent(image: Image.Image) -> bool:
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    return image.mode in _WITH_ALPHA or "transparency" in image.info or palette.endswith(("A", "a"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """The same picture in a mode of 8 bits a channel."""
    if image.mode == "F":
        return Image.fromarray(_from_floats(np.asarray(image)))
    if image.mode.startswith("I"):
        values = np.asarray(image)
        # the upper byte, as Pillow makes of 16-bit colours
        grey = (values >> 8).astype(np.uint8)
        if (clear := image.info.get("transparency")) is None:
            return Image.fromarray(grey)
        return Image.fromarray(
            np.dstack([grey, np.where(values == clear, 0, 255)]).astype(np.uint8)
        )
    return image.convert("RGBA") if image.mode in {"La", "RGBa", "PA"} else image


def _from_floats(values: NDArray[Any]) -> NDArray[Any]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN neither
        raise CannotRead(
            f"holds floating-point values from {low:g} to {high:g}; those from 0 to 1 are read"
        )
    bytes_: NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return bytes_
