"""Picture files that a user names, as a network takes them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from kdcli.data.folder_files import is_left_behind
from kdcli.data.picture import SUFFIXES
from kdcli.data.source import MOST_PIXELS, pixel_statistics
from kdcli.errors import NotFound
from kdcli.results.preprocessing import Preprocessing

REPEATED = "grey, repeated into the network's three channels"
GREYED = "in colours, turned into grey for the network's one channel"
_NO_PICTURE = "give a picture file: kd reads " + ", ".join(ending[1:] for ending in SUFFIXES)


def find_pictures(names: Sequence[str]) -> tuple[Path, ...]:
    """The files that some names stand for, each once, in the order of the names: a file is taken as
    it is, of a folder all pictures in it and below it, of a pattern (`*`, `?`, `[...]`, `**`) what
    it fits.

    Raises:
        NotFound: a name stands for no file.
    """
    found: dict[Path, None] = {}
    for name in names:
        below = dict.fromkeys(_files_of(name))
        if not below:
            raise NotFound(_why_none(name), hint=_NO_PICTURE)
        found |= below
    return tuple(found)


def _why_none(name: str) -> str:
    if os.path.isdir(name):  # noqa: PTH112  a name may be too long for a path
        return f"{name} holds no picture"
    return f"no file fits {name}" if glob.has_magic(name) else f"no such file: {name}"


def _files_of(name: str) -> Iterator[Path]:
    if os.path.isdir(name):  # noqa: PTH112  as above
        yield from _pictures_below(name)
    elif os.path.exists(name):  # noqa: PTH110  as above
        yield Path(name)
    elif glob.has_magic(name):
        for match in sorted(glob.iglob(name, recursive=True)):  # noqa: PTH207  takes any pattern, absolute ones too
            if os.path.isdir(match):  # noqa: PTH112  as above
                yield from _pictures_below(match)
            else:
                yield Path(match)


def _pictures_below(folder: str) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not is_left_behind(each))
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not is_left_behind(file):
                yield Path(top, file)


def as_input(file: Path, how: Preprocessing) -> tuple[Tensor, str]:
    """A picture as a network takes it before its pixels are normalised, [C,H,W] uint8, and what was
    done to its colours: REPEATED, GREYED or "".

    Raises:
        BadData: it cannot be read.
    """
    # torchvision is slow to import, and only pictures need it
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    from kdcli.data.decode import fit, read_picture

    pixels, coloured = read_picture(file, MOST_PIXELS, how.background, hint=_NO_PICTURE)
    fitted = fit(pixels, how).contiguous()
    if how.input_shape[0] == 3:
        return fitted, "" if coloured else REPEATED
    # all three are equal then, and the weights of colours do not add up to one in eight bits
    return (rgb_to_grayscale(fitted), GREYED) if coloured else (fitted[:1], "")


def normalised(pixels: Tensor, how: Preprocessing) -> Tensor:
    """Pictures [B,C,H,W] uint8 as a network takes them, float32: the arithmetic of training."""
    mean, std = pixel_statistics(how.mean, how.std)
    return (pixels.float() - mean).div_(std)
