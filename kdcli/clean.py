r"""Text from outside as screens and pages may show it.

Names of classes, files, runs and keys may hold characters that command a terminal or turn the order
of what stands around them: ESC and the other control characters (C0, DEL, C1), overrides and
isolates of direction, separators of lines that are no line ends, and halves of pairs, as a file
name that is not UTF-8 has. They are spelt out, \u001b, which JSON, YAML and TOML read back as what
it was. The boundaries call this, so that nobody who writes a message must think of it: Environment
for screens, files.write_page for pages, files.json_text and the envelope for JSON.
"""

from __future__ import annotations

import re

_BEYOND = r"\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(rf"[\x00-\x08\x0b-\x1f{_BEYOND}]")
_IN_LINE = re.compile(rf"[\x00-\x1f{_BEYOND}]")


def text(value: str) -> str:
    """Text of several lines, in which line ends and tabs are its own."""
    return _IN_TEXT.sub(_spelt, value)


def line(value: str) -> str:
    """Text of one line, such as a name: a line end in it is spelt out too, and a tab."""
    return _IN_LINE.sub(_spelt, value)


def _spelt(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
