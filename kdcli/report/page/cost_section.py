"""The first section of a run's report: what the network costs beside its teacher."""

from __future__ import annotations

from kdcli.report.figures.svg import Figure
from kdcli.report.findings.costs import conditions, gain, ratio, rows_of, shown
from kdcli.report.page.parts import Grid, Section
from kdcli.runs.read import Run


def costs(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """Size, operations and latency of the network, and of each teacher beside it."""
    summary = run.summary
    if summary is None or summary.cost is None:
        return None
    own = "student" if summary.command == "distill" else "network"
    beside = [*summary.teachers, *((summary.reference,) if summary.reference else ())]
    what = "teacher" if summary.teachers else "reference"
    sides = [(f"{what} {each.architecture}", each.cost) for each in beside if each.cost]
    sides.append((f"{own} {summary.network}", summary.cost))
    known = rows_of([cost for _, cost in sides])
    rows = [
        (row.name, *(shown(row, cost) for _, cost in sides))
        for row in known
        if row.of(summary.cost) is not None
    ]
    columns = ("", *(name for name, _ in sides))
    teacher = sides[0][1] if len(sides) == 2 else None
    if teacher is not None:
        columns = (*columns, f"{what} / {own}")
        by_name = {row.name: row for row in known}
        rows = [(*row, ratio(by_name[row[0]], teacher, summary.cost)) for row in rows]
    text = (
        (f"Beside its {what}, the {own} is: {gain(teacher, summary.cost)}.",)
        if teacher is not None
        else ()
    )
    title = "What was gained" if teacher is not None else "What it costs"
    return Section(
        "costs",
        title,
        text,
        (Grid(columns, tuple(rows), " ".join(conditions(summary.cost))),),
        plots,
    )
