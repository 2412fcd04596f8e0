"""What data may ask of a machine, checked before it is asked."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from kdcli.errors import BadData, UsageError

# Pillow's own bound, which no recipe can raise: `check_pixels` stands in its place
Image.MAX_IMAGE_PIXELS = None


def check_memory(needed: int, most_gb: float, what: str, hint: str) -> None:
    """Refuses data that would not fit.

    Args:
        needed: bytes. most_gb: the bound that a recipe sets. what: the data, for messages.
        hint: how to need less.

    Raises:
        UsageError: it is more than the bound, or than the memory that is free.
    """
    if needed > most_gb * 1e9:
        raise UsageError(
            f"{what} would take {needed / 1e9:,.1f} GB, more than data.max_gb = {most_gb:g}",
            hint=f"{hint}, or raise data.max_gb",
        )
    free = _free_memory()
    if needed > free:
        raise UsageError(
            f"{what} would take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of memory "
            "are free",
            hint=hint,
        )


def _free_memory() -> int:
    """Bytes that may be taken, as far as the system tells; else all that it has."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_pixels(path: Path, most: int) -> None:
    """Refuses a picture that is too large to be decoded: a file of some kilobytes may hold
    gigabytes of one colour. Its size stands in its header; no pixel is decoded.

    Args:
        most: pixels; the bound that a recipe sets.

    Raises:
        BadData: it has more. OSError, or whatever else Pillow raises: it is no picture.
    """
    with Image.open(path) as image:
        width, height = image.size
    if width * height > most:
        raise BadData(
            f"{path} has {width:,} x {height:,} pixels, more than data.max_pixels = {most:,}",
            hint="make it smaller, or raise data.max_pixels",
        )
