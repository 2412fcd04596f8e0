"""Text as Markdown shows it: names of users cannot break a page."""

from __future__ import annotations

import re

from kdcli import clean


def code_block(text: str, language: str) -> str:
    """A fenced block whose fence is longer than any in the text."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line: names with stars, brackets and angle brackets
    keep them, and those with line ends break no table or heading.
    """
    return re.sub(r"([\\`*\[\]<>|]|(?<!\w)_|_(?!\w))", r"\\\1", clean.line(text))
