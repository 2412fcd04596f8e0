"""Files of text, and the text that comes with Python, read with bounds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from kdcli.errors import BadData, NotFound

_GB = 1 << 30
# parts of a text, and what their files are called
PARTS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}


def check_size(files: Iterable[Path], max_gb: float, top: Path) -> None:
    """Refuses more text than data.max_gb allows.

    Raises:
        BadData: it is.
    """
    size = sum(file.stat().st_size for file in files)
    if size > max_gb * _GB:
        raise BadData(
            f"{top} is {size / _GB:.2f} GB of text, more than data.max_gb = {max_gb:g}",
            hint="a part of it, or a larger data.max_gb",
        )


def text_of(file: Path) -> str:
    """The content of a file, without a byte order mark.

    Raises:
        BadData: it cannot be read, or is not UTF-8; says which byte.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BadData(f"{file} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadData(
            f"{file} is not UTF-8: byte {error.start} (counted from 0) is "
            f"0x{content[error.start]:02x}",
            hint="save it as UTF-8, or leave it out",
        ) from error


def embedded_topics(instead: str) -> Mapping[str, str]:
    """The language reference that comes with Python, by topic.

    Args:
        instead: what to do where there is none.

    Raises:
        NotFound: this Python has none.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise NotFound(
            "this Python came without its language reference (pydoc_data)", hint=instead
        ) from error
    return cast("Mapping[str, str]", topics)


def of_this_python() -> str:
    """What is to be said of a text that comes with Python, since versions differ in it."""
    return f" (Python {sys.version_info[0]}.{sys.version_info[1]})"
