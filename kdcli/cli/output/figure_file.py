"""A figure in a file that the user names: SVG, or PNG where its name says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdcli import files
from kdcli.errors import UsageError

if TYPE_CHECKING:
    from kdcli.report.figures.svg import Figure

ENDINGS = (".svg", ".png")


def check(path: Path) -> None:
    """Tries whether a figure could be written there, before it is drawn.

    Raises:
        UsageError: the name has another ending. DiskFull, NotWritable: it could not.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"{path} would be no figure: a figure's name ends in {' or '.join(ENDINGS)}",
            hint=f"--plot {path.with_suffix(ENDINGS[0])}",
        )
    files.check_writable(path)


def write(figure: Figure, path: Path) -> None:
    """Writes a figure atomically."""
    if path.suffix.lower() == ".png":
        files.write_bytes(path, figure.png)
    else:
        files.write_page(path, figure.titled_svg)
