"""From an image file to pixels: shared by worker processes, by folders that are decoded once, and
by devices that decode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

from kdcli.data import picture
from kdcli.data.augment import Augmentation
from kdcli.data.source import REPLACE, ImageFolder
from kdcli.errors import BadData, KdError, UsageError
from kdcli.results.preprocessing import Preprocessing

_OF_TENSORS = frozenset({"bilinear", "bicubic"})  # what torchvision antialiases tensors by


@contextmanager
def _naming(path: Path, hint: str | None = None) -> Iterator[None]:
    """Whatever a decoder raises, as one sentence that begins with the file."""
    try:
        yield
    except KdError:  # a signal
        raise
    except picture.CannotRead as error:
        raise BadData(f"{path} {error}", hint=hint or _HINT) from error
    except (
        Exception
    ) as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, ...
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BadData(
            f"{path} is not an image, or is damaged ({why})", hint=hint or _HINT
        ) from error


_HINT = f"{REPLACE} (kd check --data lists all such files)"


def decode(folder: ImageFolder, path: str, shrink: int | None = None) -> Tensor:
    """One picture of a folder as a viewer shows it, [3,h,w] uint8, as large as it is in the file.

    Args:
        shrink: the shorter side that a larger picture is brought to, JPEG files as they are
            decoded. Which pixels come of that is decided here alone.

    Raises:
        BadData: it cannot be decoded.
    """
    with _naming(folder.root / path), picture.opened(folder.file(path), folder.max_pixels) as image:
        if shrink is None:
            return picture.shown(image, folder.background)
        picture.scale_down(image, shrink)
        whole = picture.shown(image, folder.background)
    _, height, width = whole.shape
    size = shrunk_size(height, width, shrink)
    return whole if size == (height, width) else resize(whole, list(size), antialias=True)


def size_of(folder: ImageFolder, path: str) -> tuple[int, int]:
    """Height and width of one picture, or width and height where it is to be turned, from its
    header.

    Raises:
        BadData: it is no picture.
    """
    with _naming(folder.root / path), picture.opened(folder.file(path), folder.max_pixels) as image:
        return image.height, image.width


def shrunk_size(height: int, width: int, shrink: int) -> tuple[int, int]:
    """Height and width of a picture that was brought to a shorter side, if it was longer."""
    short = min(height, width)
    if short <= shrink:
        return height, width
    return round(height * shrink / short), round(width * shrink / short)


def read_picture(
    file: Path, most: int, background: picture.Colour, hint: str | None = None
) -> tuple[Tensor, bool]:
    """An image file as a viewer shows it, [3,h,w] uint8, as large as it is in the file, and whether
    it holds colours.

    Args:
        most: pixels that it may have. background: what shows through where it is transparent.
        hint: what a refusal says to do; what is done about a file of a dataset, unless given.

    Raises:
        BadData: it cannot be decoded.
    """
    with _naming(file, hint), picture.opened(file, most) as image:
        return picture.shown(image, background), picture.in_colour(image)


def look(folder: ImageFolder, path: str) -> picture.Kind:
    """What the header of one picture says. Its pixels are decoded only if the file does not end as
    such a file does: it may have been cut off.

    Raises:
        BadData: it is no picture, or one of a kind that is not read, or it was cut off.
    """
    with _naming(folder.root / path):
        file = folder.file(path)
        with picture.opened(file, folder.max_pixels) as image:
            return _kind(folder, image, file)


def _kind(folder: ImageFolder, image: Image.Image, file: Path | BytesIO) -> picture.Kind:
    kind = picture.kind_of(image)
    if not picture.looks_whole(image, file):
        picture.shown(image, folder.background)
    return kind


def read(folder: ImageFolder, path: str) -> Tensor:
    """The content of a JPEG file that any decoder reads alike, [bytes] uint8, for a device to
    decode; of another file the picture itself, [3,h,w] uint8.

    Raises:
        BadData: it cannot be read, or decoded.
    """
    with _naming(folder.root / path):
        file = folder.file(path)
        with picture.opened(file, folder.max_pixels) as image:
            if not picture.is_plain_jpeg(image):
                return picture.shown(image, folder.background)
            content = file.read_bytes() if isinstance(file, Path) else file.getvalue()
            return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def decode_on(
    device: torch.device, folder: ImageFolder, paths: Sequence[str], files: Sequence[Tensor]
) -> list[Tensor]:
    """Pictures [3,h,w] uint8 on a device, of what `read` gave for each path.

    Raises:
        BadData: one cannot be decoded.
    """
    places = [place for place, file in enumerate(files) if file.dim() == 1]
    pictures = {place: file.to(device) for place, file in enumerate(files) if file.dim() > 1}
    # one of them: not all kinds of JPEG files can be decoded by a GPU, and some are damaged
    try:
        pictures |= zip(
            places, _decode_jpegs([files[place] for place in places], device), strict=True
        )
    except RuntimeError:
        pictures |= {
            place: _decode_one(device, folder, paths[place], files[place]) for place in places
        }
    return [pictures[place] for place in range(len(files))]


def _decode_one(device: torch.device, folder: ImageFolder, path: str, file: Tensor) -> Tensor:
    try:
        return _decode_jpegs([file], device)[0]
    except RuntimeError:
        return decode(folder, path).to(device)


def _decode_jpegs(files: list[Tensor], device: torch.device) -> list[Tensor]:
    decoded: list[Tensor] = decode_jpeg(files, ImageReadMode.RGB, device=device) if files else []
    return decoded


def check_decoder(device: torch.device) -> None:
    """Refuses a device that does not decode JPEG files.

    Raises:
        UsageError: it is no GPU, or this torchvision cannot decode on it.
    """
    hint = 'leave runtime.decode out, or set it to "workers"'
    if device.type != "cuda":
        raise UsageError(
            f"runtime.decode is device, but on a {device.type} it is worker processes that "
            "decode images",
            hint=hint,
        )
    try:
        _decode_jpegs([encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8))], device)
    except RuntimeError as error:
        first_line, _, _ = str(error).partition("\n")
        raise UsageError(
            f"runtime.decode is device, but this torchvision does not decode on {device}: "
            f"{first_line}",
            hint=hint,
        ) from error


def fit(images: Tensor, how: Preprocessing) -> Tensor:
    """Pictures [...,C,h,w] uint8 of one size as a network sees them, [...,C,H,W]: resized, and the
    middle cut out.
    """
    size = _resized_size(images, how)
    if size != tuple(images.shape[-2:]):
        images = resized(images, size, how)
    return center_crop(images, list(how.size))  # type: ignore[no-any-return]


def _resized_size(images: Tensor, how: Preprocessing) -> tuple[int, int]:
    """Height and width before the middle is cut out."""
    if isinstance(how.resize, tuple):
        return how.resize
    height, width = images.shape[-2:]
    # of the longer side what is over is cut off, as torchvision does
    if height <= width:
        return how.resize, int(how.resize * width / height)
    return int(how.resize * height / width), how.resize


def resized(images: Tensor, size: tuple[int, int], how: Preprocessing) -> Tensor:
    """Pictures [...,C,h,w] uint8 brought to a height and width by the network's own arithmetic,
    antialiased; Pillow's serves single pictures on a CPU, and torchvision's all others.
    """
    if how.resampler == "pillow" and images.dim() == 3 and not images.is_cuda:
        rows = images if len(images) != 1 else images[0]
        picture_ = Image.fromarray((rows if rows.dim() == 2 else rows.permute(1, 2, 0)).numpy())
        kind = Image.Resampling[how.interpolation.upper()]
        pixels = torch.from_numpy(np.array(picture_.resize((size[1], size[0]), kind)))
        return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
    return _by_torchvision(images, size, how)


def _by_torchvision(images: Tensor, size: tuple[int, int], how: Preprocessing) -> Tensor:
    kind = InterpolationMode(how.interpolation)
    return resize(images, list(size), interpolation=kind, antialias=True)  # type: ignore[no-any-return]


def finish(how: Preprocessing, augment: Augmentation, image: Tensor, change: int) -> Tensor:
    """A picture [3,h,w] uint8 as a network sees it: with its change by a random resized crop if
    there are such, else fitted.
    """
    if not augment.resized_crop:
        return fit(image, how)
    top, left, height, width = augment.box(change, *image.shape[1:])
    part = _cut_to_size(image[:, top : top + height, left : left + width], how)
    return part.flip(-1) if augment.mirrors(change) else part


def _cut_to_size(part: Tensor, how: Preprocessing) -> Tensor:
    """A random part [C,h,w] uint8 of a picture as a network sees it, [C,H,W].

    By torchvision on a CPU too, whichever library the network's own pictures are resized by: in
    whole numbers, antialiased, a third of Pillow's time and at most 1 of 255 from what it makes.
    """
    if how.interpolation not in _OF_TENSORS:
        return resized(part, how.size, how)
    # colours of a pixel side by side, and no gaps between rows: that is what is fast
    packed = part.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return _by_torchvision(packed, how.size, how)


def changed(
    how: Preprocessing,
    augment: Augmentation,
    image: Tensor,
    change: int,
    size: tuple[int, int],
) -> Tensor:
    """The same with all else that its change does to it, crop and flip too.

    Args:
        size: of the pictures whose pixels a crop counts.
    """
    return painted(augment, finish(how, augment, image, change), change, size)


def painted(augment: Augmentation, part: Tensor, change: int, size: tuple[int, int]) -> Tensor:
    """A finished picture with the rest of its change: crop, flip and colours. size: as above."""
    if not augment.resized_crop:
        part = augment.apply(part[None], torch.tensor([change], device=part.device), size)[0]
    return augment.paint(part.contiguous(), change)
