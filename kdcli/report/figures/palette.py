"""The colours of networks, the same in every figure of a page.

Networks have colours, warm for teachers and cool for students: the first teacher is orange and the
first student blue, which stay apart under every kind of colour blindness, as both do from the grey
of what is neither. A mid-tone that can be seen on white and on black leaves no room for more such
colours, so further networks have markers of their own too. What is no network, a term of a loss or
a class, has other hues, and dashes or markers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcli import formatting

if TYPE_CHECKING:
    from kdcli.results.gap import GapReport

TEACHERS = ("#cc7417", "#b8455a", "#a38a00", "#8f6a4a")
STUDENTS = ("#2f7fd6", "#1f9a86", "#8a63d2", "#5b8fa8")
TEACHER, STUDENT = TEACHERS[0], STUDENTS[0]
MUTED = "#808893"  # labels alone, training images, what is there for comparison
THINGS = ("#b0589f", "#5f9a3c", MUTED)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[object, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 3)),
)
ALIGNED_DASH = (0, (4, 1.2, 1.2, 1.2))
ALIGNED_HATCH = "////"  # the same network in another form: its own colour, striped


@dataclass(frozen=True, slots=True)
class Look:
    """The look of one network. called: its name in a legend, short where it is the only one of its
    kind.
    """

    called: str
    colour: str
    marker: str


class Palette:
    """The looks of all networks of a page, by label."""

    def __init__(self, teachers: Iterable[str], students: Iterable[str]) -> None:
        self._teachers = _looks(list(dict.fromkeys(teachers)), "teacher", TEACHERS)
        self._students = _looks(list(dict.fromkeys(students)), "student", STUDENTS)

    @classmethod
    def of(cls, report: GapReport) -> Palette:
        """Of a report with all its teachers and students."""
        return cls(
            (one.teacher.label for one in report.reports),
            (student.label for one in report.reports for student in one.students),
        )

    def teacher(self, label: str) -> Look:
        return self._teachers[label]

    def student(self, label: str) -> Look:
        return self._students[label]


def _looks(labels: list[str], role: str, colours: tuple[str, ...]) -> dict[str, Look]:
    return {
        label: Look(
            role if len(labels) == 1 else formatting.short(label, 28),
            colours[place % len(colours)],
            MARKERS[place % len(MARKERS)],
        )
        for place, label in enumerate(labels)
    }
