"""Figures that can be had as PNG too: for slides and messages, where SVG is not shown. On white
paper, whatever the page's.
"""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdcli.report.markdown import escape
from kdcli.report.svg import Plot, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150


@dataclass(frozen=True, slots=True)
class Picture(Plot):
    """A finished figure that has been kept."""

    figure: Figure = field(repr=False, compare=False)

    @property
    def png(self) -> bytes:
        """The drawing on white, 150 pixels an inch."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        buffer = io.BytesIO()
        self.figure.set_facecolor("white")
        self.figure.set_dpi(_DPI)
        words = {"Title": self.title, "Description": self.caption, "Software": None}
        FigureCanvasAgg(self.figure).print_png(buffer, metadata=words)  # type: ignore[no-untyped-call]
        return buffer.getvalue()

    @property
    def titled_svg(self) -> str:
        """The SVG with its title and caption inside, for a file that stands alone."""
        start, rest = self.svg.split(">", 1)
        title, caption = html.escape(self.title), html.escape(self.caption)
        return f"{start}><title>{title}</title><desc>{caption}</desc>{rest}"


def picture(
    figure: Figure, name: str, section: str, title: str, caption: str, basis: str
) -> Picture:
    """A figure that is done. Call it within `house_style`."""
    return Picture(name, section, title, caption, basis, to_svg(figure), figure)


def captions(pictures: Sequence[Picture]) -> str:
    """A page that shows every picture of a folder over its caption, Markdown."""
    return "\n".join(_block(each) for each in pictures)


def _block(each: Picture) -> str:
    title, caption, basis = map(escape, (each.title, each.caption, each.basis))
    return f"## {title}\n\n![{title}]({each.name}.svg)\n\n{caption}\n\n_{basis}_\n"
