"""The section on where, in a text, a student answers otherwise than its teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kdcli import formatting
from kdcli.report.page.parts import Grid, Passage, Section, Shade
from kdcli.results.gap import GapReport
from kdcli.results.text_gap import ShadedToken, TextGap, TokensAt

_FULL = 0.95  # share of the tokens that are no more than fully shaded


def words(report: GapReport) -> Section | None:
    """The text shaded by the gap, and the gap by frequency, place and token."""
    if not report.texts:
        return None
    several = len(report.texts) > 1
    return Section(
        "words",
        "Where in the text the gap is",
        tuple(sentence for found in report.texts for sentence in _said(found, several=several)),
        tuple(grid for found in report.texts for grid in _grids(report, found, several=several)),
        passages=tuple(_passage(report, found, several=several) for found in report.texts),
        folded="The numbers",
    )


def _said(found: TextGap, *, several: bool) -> Iterator[str]:
    who = found.student if several else "The student"
    if found.less_sure:
        names = formatting.listed([repr(each.name) for each in found.less_sure], 5)
        yield f"{who} is less sure than its teacher above all where {names} comes next."
    if len(found.by_frequency) > 1:
        widest = max(found.by_frequency, key=lambda each: each.gap.value)
        yield (
            f"By how common a token is, the entropy gap is widest at {widest.name}: "
            f"{formatting.signed(widest.gap.value)} nats."
        )


def _passage(report: GapReport, found: TextGap, *, several: bool) -> Passage:
    widths = sorted(abs(each.gap) for each in found.opening)
    widest = widths[int(_FULL * (len(widths) - 1))] if widths else 0.0
    title = (
        f"The {report.split} text from its beginning: orange where "
        f"{found.student if several else 'the student'} is less sure than its teacher, blue where "
        "it is surer"
    )
    return Passage(title, tuple(_shade(each, widest or 1.0) for each in found.opening))


def _shade(token: ShadedToken, widest: float) -> Shade:
    note = f"G_S {formatting.signed(token.gap)} nats"
    return Shade(token.text, token.gap / widest, note, token.ends)


def _grids(report: GapReport, found: TextGap, *, several: bool) -> Iterator[Grid]:
    whose = f"{found.student}: " if several else ""
    basis = f"{whose}{report.split} text, τ = 1; normal 95 % intervals over tokens"
    heading = ("n", "S teacher", "S student", "gap", "", "surprise")
    for first, rows, more in (
        ("how common", found.by_frequency, "rank among the targets of the training text"),
        ("place", found.by_place, "tokens before it in its line"),
        ("less sure of", found.less_sure, "tokens that come five times or more"),
        ("surer of", found.surer, "tokens that come five times or more"),
    ):
        if rows:
            columns = (first, *heading)
            caption = f"{basis}. {more[0].upper()}{more[1:]}."
            yield Grid(columns, tuple(_rows(rows)), caption)


def _rows(rows: Iterable[TokensAt]) -> Iterator[tuple[str, ...]]:
    for each in rows:
        low, high = (formatting.signed(bound) for bound in (each.gap.low, each.gap.high))
        yield (
            each.name,
            formatting.thousands(each.n),
            formatting.number(each.teacher),
            formatting.number(each.student),
            formatting.signed(each.gap.value),
            f"{low} to {high}",
            formatting.signed(each.surprise),
        )
