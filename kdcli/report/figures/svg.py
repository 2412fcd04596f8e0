"""The look of every figure, and SVG text that fits a page: themeable, small, and the same bytes
each time.

Figures are drawn once and serve light and dark pages: text and axes take the page's own colour
(currentColor), the paper is transparent, and each series has one mid-tone that keeps a contrast of
3:1 or more on white and on near-black. A colour stands for a network, the same one in every figure:
kdcli.report.figures.palette. Text stays text, so that it can be searched and read aloud. matplotlib
is imported when the first figure is drawn, and its global state (pyplot, rcParams) is left as it
was.
"""

from __future__ import annotations

import functools
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kdcli import clean
from kdcli.report.figures.palette import MUTED
from kdcli.report.markdown import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# room for labels and legends is found by drawing them before: more than half of the time
LAYOUT: Literal["constrained"] | None = "constrained"
SMALL = 9.0  # of notes inside a figure; nothing is smaller, so that a telephone can be read
INK = "#010203"  # drawn in this colour, written as currentColor
_FONT = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
# For a file that stands alone there is no page to take a colour from.
_ALONE = "<style>svg{color:#1c2128}@media(prefers-color-scheme:dark){svg{color:#d7dde4}}</style>"

_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in somebody's class names is a dollar
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # nothing is written above axes; to look for it takes a tenth of the time
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "hatch.linewidth": 1.4,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}

_DPI = 150
# for class names in Chinese, Japanese, Korean and other scripts, as systems have them
_MORE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Source Han Sans JP",
    "IPAexGothic",
    "Hiragino Sans",
    "Yu Gothic",
    "MS Gothic",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK KR",
    "NanumGothic",
    "Apple SD Gothic Neo",
    "Malgun Gothic",
    "Noto Sans",
    "Arial Unicode MS",
    "Last Resort High-Efficiency",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A finished figure. name: its file under plots/, without suffix. title: what was found;
    caption: one sentence that says what to see; basis: what the numbers rest on, n and kind of
    interval. svg: a document that stands alone; canvas: what it was drawn on, kept for a PNG.
    """

    name: str
    section: str
    title: str
    caption: str
    basis: str
    svg: str
    canvas: Canvas = field(repr=False, compare=False)

    @property
    def inline(self) -> str:
        """The same drawing for the middle of an HTML page, whose colour it takes."""
        label = html.escape(f"{self.title}. {self.caption}", quote=True)
        return self.svg.replace(_ALONE, "").replace(
            "<svg ", f'<svg role="img" aria-label="{label}" ', 1
        )

    @property
    def png(self) -> bytes:
        """The drawing on white, 150 pixels an inch."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        buffer = io.BytesIO()
        self.canvas.set_facecolor("white")
        self.canvas.set_dpi(_DPI)
        words = {
            "Title": clean.text(self.title),
            "Description": clean.text(self.caption),
            "Software": None,
        }
        with _clean_texts(), _unknown_signs():
            FigureCanvasAgg(self.canvas).print_png(buffer, metadata=words)  # type: ignore[no-untyped-call]
        return buffer.getvalue()

    @property
    def titled_svg(self) -> str:
        """The SVG with its title and caption inside, for a file that stands alone."""
        start, rest = self.svg.split(">", 1)
        title, caption = html.escape(self.title), html.escape(self.caption)
        return f"{start}><title>{title}</title><desc>{caption}</desc>{rest}"


@contextmanager
def house_style(name: str) -> Iterator[None]:
    """The plotting library in the look of the reports. `name` makes the ids of one figure differ
    from those of another on a page.
    """
    from matplotlib import style

    look = {**_RC, "font.family": list(_families()), "svg.hashsalt": name}
    with style.context(look, after_reset=True), _clean_texts(), _unknown_signs():
        yield


@functools.cache
def _families() -> tuple[str, ...]:
    """Fonts to measure and draw PNGs with, in the order in which they are asked for a sign."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    # the first comes with matplotlib, and is wider than what a browser will use
    return ("DejaVu Sans", *(name for name in _MORE_FONTS if name in installed))


@contextmanager
def _unknown_signs() -> Iterator[None]:
    """Within, a sign that no installed font has is drawn as a box without a warning. In SVG it
    stays text, for which the reader's browser finds a font.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ ", UserWarning)
        yield


@contextmanager
def _clean_texts() -> Iterator[None]:
    """Within it whatever is drawn is cleaned (kdcli.clean): a font has no sign for ESC, and would
    say so.
    """
    from matplotlib.text import Text

    before = Text.set_text

    def set_text(self: Text, text: Any) -> None:
        before(self, clean.text(text) if isinstance(text, str) else text)

    Text.set_text = set_text  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Text.set_text = before  # type: ignore[method-assign]


def canvas(width: float = 5.0, height: float = 3.1) -> Canvas:
    """An empty figure, inches, that no global state knows of. Call it, and draw, within
    `house_style`.
    """
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width, height), dpi=72, layout=LAYOUT)


def legend(axes: Axes, columns: int = 4) -> None:
    """A legend on one line above the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            borderaxespad=0.2,
            borderpad=0.2,
        )


def epoch_axis(axes: Axes, stages: Sequence[tuple[float, str]] = ()) -> None:
    """An axis of epochs; a thin line with its name where each of the stages begins."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    for start, name in stages:
        axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.text(
            start + 0.1,
            0.02,
            name,
            transform=axes.get_xaxis_transform(),
            fontsize=SMALL,
            color=MUTED,
        )


def apart(svg: str, suffix: str) -> str:
    """The drawing with other ids: for the second figure of its kind on a page."""
    return re.sub(r'(\bid="|href="#|url\(#)([^")]+)', rf"\1\2{suffix}", svg)


def to_svg(figure: Canvas) -> str:
    """The figure as SVG text: currentColor for ink, no ids but those referred to, no date, no
    outside address.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)  # type: ignore[no-untyped-call]  # savefig draws twice
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = (
        text.replace(INK, "currentColor")
        .replace("xlink:href", "href")
        .replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    )
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # two figures on a page would share them
    text = re.sub(r"font-family: [^;\"]*", _FONT, text)
    # 1/100 pt is finer than a screen
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    # would style the whole page
    text = re.sub(r'<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return clean.text(f'{opening} stroke-linejoin="round">{_ALONE}{rest.strip()}\n')


def finished(
    figure: Canvas, name: str, section: str, title: str, caption: str, basis: str
) -> Figure:
    """A figure that is done. Call it within `house_style`."""
    return Figure(name, section, title, caption, basis, to_svg(figure), figure)


def captions(pictures: Sequence[Figure]) -> str:
    """A page that shows every picture of a folder over its caption, Markdown."""
    return "\n".join(_block(each) for each in pictures)


def _block(each: Figure) -> str:
    title, caption, basis = map(escape, (each.title, each.caption, each.basis))
    return f"## {title}\n\n![{title}]({each.name}.svg)\n\n{caption}\n\n_{basis}_\n"
