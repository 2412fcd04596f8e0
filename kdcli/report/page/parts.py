"""The parts of a page, whether HTML or Markdown shows it: sections of text, figures and small
tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcli.report.figures.svg import Figure


@dataclass(frozen=True, slots=True)
class Grid:
    """A small table of text. The first column names the rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    words: bool = False  # cells hold words rather than numbers, and stand to the left

    @classmethod
    def of(cls, rows: Sequence[tuple[str, ...]], caption: str = "", *, words: bool = False) -> Grid:
        """From rows of which the first is the heading."""
        return cls(rows[0], tuple(rows[1:]), caption, words)


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a report. text: paragraphs before its tables and figures; code: a block that is
    shown as it is. folded: what a page keeps closed under these words until somebody asks; of
    tables and code, never of figures or text.
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    plots: tuple[Figure, ...] = ()
    code: str = ""
    folded: str = ""
