"""The parts of a page, whether HTML or Markdown shows it: sections of text, figures and small
tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
class Thumbnail:
    """A small picture. image: a data URI; width, height: in pixels. label: its class; answers: who
    takes it for what; source: where it comes from.
    """

    image: str
    width: int
    height: int
    label: str
    answers: tuple[tuple[str, str], ...]
    source: str

    @property
    def short_source(self) -> str:
        """The source without its folders."""
        return self.source.rpartition("/")[2]

    @property
    def alt(self) -> str:
        """The same in words, for those who do not see it."""
        return f"{self.label}; {', '.join(f'{who}: {said}' for who, said in self.answers)}"


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """Pictures that belong together. name: of what they share; note: how many of how many."""

    name: str
    note: str
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Small pictures under a title, in rows. grid: what stands in their place where no picture can
    be shown.
    """

    title: str
    text: str
    rows: tuple[GalleryRow, ...]
    grid: Grid


@dataclass(frozen=True, slots=True)
class Shade:
    """A word of a passage. strength: -1 to 1, of one colour or the other; note: the number, in
    words. ends: whether a line ends behind it.
    """

    text: str
    strength: float
    note: str
    ends: bool = False

    @property
    def percent(self) -> int:
        """How much of its colour it has, in percent."""
        return round(55 * min(abs(self.strength), 1.0))


@dataclass(frozen=True, slots=True)
class Passage:
    """A text whose words are shaded. title: what it is of."""

    title: str
    words: tuple[Shade, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a report. text: paragraphs before its tables and figures; code: a block that is
    shown as it is; galleries: pictures of the data. folded: what a page keeps closed under these
    words until somebody asks; of tables and code, never of figures or text. passages: of a text,
    shaded.
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    plots: tuple[Figure, ...] = ()
    code: str = ""
    folded: str = ""
    galleries: tuple[Gallery, ...] = ()
    passages: tuple[Passage, ...] = ()

    def worded(self, said: Callable[[str], str]) -> Section:
        """The same about other samples than images: what kd says, not what tables hold."""
        return replace(
            self,
            title=said(self.title),
            text=tuple(map(said, self.text)),
            grids=tuple(
                replace(
                    grid,
                    columns=tuple(map(said, grid.columns)),
                    rows=tuple((said(row[0]), *row[1:]) for row in grid.rows),
                    caption=said(grid.caption),
                )
                for grid in self.grids
            ),
            plots=tuple(
                replace(
                    plot,
                    title=said(plot.title),
                    caption=said(plot.caption),
                    basis=said(plot.basis),
                )
                for plot in self.plots
            ),
        )
