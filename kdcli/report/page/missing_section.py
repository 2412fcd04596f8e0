"""The section of a run's report on classes of which no training image was shown."""

from __future__ import annotations

from kdcli import formatting
from kdcli.report.figures.svg import Figure
from kdcli.report.findings.run import provenance
from kdcli.report.page.parts import Grid, Section
from kdcli.results.measures import Excluded, ExcludedClass
from kdcli.runs.read import Run


def missing(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """The classes of which no training image was shown: how well the network knows them, and for
    what it takes them.
    """
    excluded = run.summary.excluded if run.summary else None
    if run.summary is None or excluded is None:
        return None
    teacher = "teacher" if run.summary.teachers else "reference"
    every = [(item.name, item, _taken_for(run, item.number)) for item in excluded.classes]
    rows = [(name, *_missing_row(item), mistaken) for name, item, mistaken in every]
    if len(rows) > 1:
        rows.append(("together", *_missing_row(excluded), ""))
    grid = Grid(
        ("class", "test images", "accuracy", "95 % interval, %", teacher, "else taken for"),
        tuple(rows),
        provenance(run.summary),
    )
    known = (
        (
            f"It can know of {'it' if len(every) == 1 else 'them'} only what the teacher's "
            "answers to other classes say."
        ),
    )
    title = "Missing class" if len(every) == 1 else "Missing classes"
    return Section("missing", title, known if run.summary.teachers else (), (grid,), plots)


def _missing_row(item: Excluded | ExcludedClass) -> tuple[str, ...]:
    interval = (
        formatting.percent_range(item.accuracy_interval, item.n)
        if item.accuracy_interval
        else formatting.MISSING
    )
    return (
        formatting.thousands(item.n),
        formatting.percent(item.accuracy, item.n),
        interval,
        formatting.percent(item.teacher_accuracy, item.n),
    )


def _taken_for(run: Run, number: int) -> str:
    """The three commonest wrong answers to a class, with how often they were given."""
    if run.analysis is None or number >= len(run.analysis.confusion):
        return ""
    wrong = [
        (count, other)
        for other, count in enumerate(run.analysis.confusion[number])
        if count and other != number
    ]
    most = sorted(wrong, key=lambda pair: (-pair[0], pair[1]))[:3]
    return ", ".join(f"{run.analysis.class_names[other]} ({count})" for count, other in most)
