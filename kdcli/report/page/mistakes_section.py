"""The section of a run's report on what the network gets wrong: the pictures, with the answers."""

from __future__ import annotations

from kdcli import formatting
from kdcli.report.figures.svg import Figure
from kdcli.report.page.parts import Gallery, GalleryRow, Grid, Section, Thumbnail
from kdcli.results.mistakes import GivenAnswer, Kind, Mistake, MistakesOfClass, MistakesOfKind
from kdcli.runs.read import Run

MOST_ROWS = 8  # of a kind in Markdown, which has the answers and no pictures


def mistakes(run: Run, _: tuple[Figure, ...]) -> Section | None:
    """What the network gets wrong: where its teacher is right, where it is wrong too, and where the
    network is surest.
    """
    if run.summary is None or run.mistakes is None or not run.mistakes.kinds:
        return None
    own = "student" if run.summary.command == "distill" else "network"
    beside = "teacher" if run.summary.teachers else "reference"
    n = run.mistakes.n
    galleries = tuple(_gallery(kind, n, own, beside) for kind in run.mistakes.kinds)
    text = (
        f"Pictures of the test split as the {own} sees them, with what they are taken for and the "
        "probability of that at τ = 1. Of each class the surest mistakes come first."
    )
    return Section("mistakes", f"What the {own} gets wrong", (text,), galleries=galleries)


def _gallery(kind: MistakesOfKind, n: int, own: str, beside: str) -> Gallery:
    titles: dict[Kind, str] = {
        "teacher-right": f"The {own} is wrong, the {beside} right",
        "both-wrong": f"Both are wrong, {own} and {beside}",
        "wrong": f"The {own} is wrong",
        "surest": f"Wrong, and the {own} is surest",
    }
    rows = tuple(_row(one, own, beside) for one in kind.classes if one.shown)
    if kind.shown:
        rows = (GalleryRow("", "", tuple(_thumbnail(one, own, beside) for one in kind.shown)),)
    shown = sum(len(row.thumbnails) for row in rows)
    left = "" if shown == kind.n else f"; {shown} are shown"
    listed = kind.shown or tuple(mistake for one in kind.classes for mistake in one.shown)
    return Gallery(
        titles[kind.kind],
        f"{formatting.thousands(kind.n)} of {formatting.plural(n, 'test image')}{left}.",
        rows,
        _table(listed, titles[kind.kind], own, beside),
    )


def _row(one: MistakesOfClass, own: str, beside: str) -> GalleryRow:
    shown = tuple(_thumbnail(mistake, own, beside) for mistake in one.shown)
    of = "" if len(shown) == one.n else f"{len(shown)} of {formatting.thousands(one.n)}"
    return GalleryRow(one.label, of, shown)


def _thumbnail(mistake: Mistake, own: str, beside: str) -> Thumbnail:
    answers = [(own, _said(mistake.own))]
    if mistake.teacher is not None:
        answers.append((beside, _said(mistake.teacher)))
    return Thumbnail(
        mistake.image,
        mistake.width,
        mistake.height,
        mistake.label,
        tuple(answers),
        _source(mistake),
    )


def _said(answer: GivenAnswer) -> str:
    return f"{answer.name} ({_share(answer.probability)})"


def _share(probability: float) -> str:
    """A probability in whole percents, none of which is certainty."""
    percent = 100 * probability
    if percent >= 99.5:
        return f">99{formatting.NBSP}%"
    return f"{percent:.0f}{formatting.NBSP}%"


def _source(mistake: Mistake) -> str:
    """The picture's file, or its place where there is none."""
    return mistake.file or f"test image {mistake.number}"


def _table(listed: tuple[Mistake, ...], title: str, own: str, beside: str) -> Grid:
    taught = any(mistake.teacher for mistake in listed)
    columns = ("picture", "is", own, *((beside,) if taught else ()))
    rows = tuple(
        (
            _source(mistake),
            mistake.label,
            _said(mistake.own),
            *((_said(mistake.teacher),) if mistake.teacher else ()),
        )
        for mistake in listed[:MOST_ROWS]
    )
    left = len(listed) - len(rows)
    more = f"{left} more, and the pictures, are" if left else "the pictures are"
    return Grid(columns, rows, f"{title}; {more} in report.html.", words=True)
