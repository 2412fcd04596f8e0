"""Formats numbers for people: one way for every page, table and figure.

Accuracy is a fraction in files and a percentage here; differences of accuracy are in points; a
number that is not there is a dot, never a zero. Minus signs are real ones, thousands are kept apart
by a space that does not break.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # listings of the command line need words and start faster without
    from kdcli.results.intervals import Interval

MISSING = "·"
NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def known(value: float | None) -> bool:
    """Tells whether there is a number to show."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 3) -> str:
    """A plain number: 0.112."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.replace("-", MINUS if float(text) else "")


def asked_digits(limit: float, least: int = 3) -> int:
    """As many decimals as a limit was asked for with, so many at least: 0.96 has three, 0.9999
    four.
    """
    exact = round(limit, 9)
    return next((digits for digits in range(least, 9) if round(exact, digits) == exact), 9)


def set_apart(first: float | None, second: float | None, digits: int = 3) -> tuple[str, str]:
    """Two plain numbers that are compared, with as many digits as it takes to tell them apart:
    0.9335, 0.9331.
    """
    most = 12
    while digits < most and first != second and number(first, digits) == number(second, digits):
        digits += 1
    return number(first, digits), number(second, digits)


def signed(value: float | None, digits: int = 3) -> str:
    """A difference: +0.081, −0.020."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:+.{digits}f}"
    # what rounds to nothing has no sign
    return text.replace("-", MINUS) if float(text) else text[1:]


def percent_digits(n: int) -> int:
    """Decimals of a percentage over n samples: as many as one sample can move."""
    return 2 if n >= 5000 else 1


def percent(value: float | None, n: int = 0) -> str:
    """A fraction as a percentage, with the decimals that n samples justify: 97.2 %."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{100 * value:.{percent_digits(n)}f}{NBSP}%"


def percent_range(interval: Interval | None, n: int = 0) -> str:
    """An interval of fractions in percent, without the sign: 95.0–98.5."""
    if interval is None:
        return MISSING
    digits = percent_digits(n)
    return f"{100 * interval.low:.{digits}f}–{100 * interval.high:.{digits}f}"


def points(difference: float | None, n: int = 0) -> str:
    """A difference of fractions in percentage points: −1.7 pt."""
    if difference is None or not math.isfinite(difference):
        return MISSING
    return f"{signed(100 * difference, percent_digits(n))}{NBSP}pt"


def thousands(value: int) -> str:
    """A whole number in groups of three: 10 000."""
    return f"{value:,}".replace(",", NBSP) if value >= 10_000 else str(value)


def count(value: int | None) -> str:
    """A number of parameters: 20.5 k, 1.43 M."""
    if value is None:
        return MISSING
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g}{NBSP}{unit}"
    return str(value)


def disk(size: int) -> str:
    """Room on a disk, from bytes: 30 kB, 1,628.1 MB."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def kept(text: str) -> str:
    """The text, in which no line ends between a letter and its value: n = 360, τ = 4."""
    return re.sub(r"(?<!\S)(n|τ|K|ρ|r) = ", rf"\1{NBSP}={NBSP}", text)


def duration(seconds: float | None) -> str:
    """A time: 4.1 s, 12 min 30 s, 3 h 05 min."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min{NBSP}{rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h{NBSP}{minutes % 60:02d}{NBSP}min"


def milliseconds(seconds: float) -> str:
    """A short time, in milliseconds to three figures, without the unit: 0.410, 12.3, 1480."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def times(ratio: float) -> str:
    """A ratio of sizes: 70×, 3.6×."""
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def temperature(value: float) -> str:
    """A temperature as one writes it: 1, 4, 0.5."""
    return f"{value:g}"


def measured_temperature(value: float) -> str:
    """A temperature that was fitted, to three figures: 0.431."""
    return f"{value:.3g}"


def short(name: str, most: int = 16) -> str:
    """A name that fits beside an axis: its beginning, where it is longer."""
    return name if len(name) <= most else name[: most - 1] + "…"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names as one says them: 7; 3 and 7; 1, 3 and 7; 1, 3, 7 and 9 more."""
    shown = list(names) if len(names) <= most else [*names[:most], f"{len(names) - most} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def plural(amount: int, word: str, space: str = NBSP) -> str:
    """1 image, 360 images, 10 classes. space: a plain one in messages, which are searched."""
    ending = "" if amount == 1 else "es" if word.endswith("s") else "s"
    return f"{thousands(amount)}{space}{word}{ending}"
