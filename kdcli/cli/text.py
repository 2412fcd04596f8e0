"""Columns, prose and bars for a screen. No rich: listings must appear at once. Numbers are said by
`kdcli.formatting`.
"""

from __future__ import annotations

import math
import re
import shutil
import textwrap
from collections.abc import Sequence

from kdcli import clean

BARS = "▁▂▃▄▅▆▇█"
LEAST = 12  # columns that a shortened name keeps
LEAST_COLUMNS = 40  # a screen that says it is narrower is written as if it had these
_LABEL = re.compile(r"\n(?=[A-Z][a-z ]+: )")


def columns(
    rows: Sequence[Sequence[str]],
    align: str = "",
    gap: int = 2,
    indent: int = 2,
    room: int | None = None,
) -> list[str]:
    """Rows as aligned lines: `align` has < or > per column, < where it ends. No line ends in
    blanks.

    Nothing is cut, unless the table must fit into `room` columns: then the first column gives way.
    """
    rows = [tuple(map(clean.line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = 0 if room is None else indent + sum(widths) + gap * (len(widths) - 1) - room
    if excess > 0:
        widths[0] = max(widths[0] - excess, LEAST)
        rows = [(_tail(row[0], widths[0]), *row[1:]) for row in rows]
    sides = align.ljust(len(widths), "<")

    def cell(text: str, width: int, side: str) -> str:
        return text.rjust(width) if side == ">" else text.ljust(width)

    joined = ((" " * gap).join(map(cell, row, widths, sides)) for row in rows)
    return [(" " * indent + line).rstrip() for line in joined]


def _tail(text: str, width: int) -> str:
    """The end of a name, which is where names of runs differ."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def terminal_columns() -> int:
    """Columns of the terminal; 80 where there is none."""
    return max(shutil.get_terminal_size((80, 24)).columns, LEAST_COLUMNS)


def wrap(text: str, indent: int = 2) -> str:
    """Prose, wrapped to the terminal, at most 100 columns. Paragraphs, "Label: ..." lines and
    indented lines keep their start.
    """
    width = min(terminal_columns(), 100)
    margin = " " * indent
    blocks = []
    for block in text.strip().split("\n\n"):
        if any(line.startswith(" ") for line in block.splitlines()):
            blocks.append(textwrap.indent(block, margin))
        else:
            prose = textwrap.TextWrapper(
                width, margin, margin, break_on_hyphens=False, break_long_words=False
            )
            blocks.append("\n".join(map(prose.fill, _LABEL.split(block))))
    return "\n\n".join(blocks)


def shorten(text: str, width: int) -> str:
    """Text cut to a width, with a sign that it was."""
    return text if len(text) <= width else text[: max(width - 1, 0)].rstrip() + "…"


def option(value: object) -> str:
    """An option's value as a recipe would write it, short."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(option, value)) + "]"
    return "none" if value is None else str(value)


def sparkline(values: Sequence[float]) -> str:
    """Values as a row of bars, from the least to the greatest."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    scale = (len(BARS) - 1) / span if span else 0.0
    return "".join(
        BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values
    )
