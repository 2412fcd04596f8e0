"""The last sections of a run's report: its recipe, where it ran, and how to make it again."""

from __future__ import annotations

import shlex

from kdcli.report.figures.svg import Figure
from kdcli.report.page.parts import Grid, Section
from kdcli.runs.folder import RECIPE_FILE
from kdcli.runs.read import Run


def recipe(run: Run, _: tuple[Figure, ...]) -> Section:
    """The resolved recipe, as it is."""
    return Section(
        "recipe",
        "Recipe",
        code=run.recipe_text.strip(),
        folded="Every value, and where it came from",
    )


def environment(run: Run, _: tuple[Figure, ...]) -> Section | None:
    """Versions, device, commit and data."""
    if not run.environment:
        return None
    rows = tuple(
        (key.replace("_", " "), _say(value))
        for key, value in run.environment.items()
        if value not in (None, "", {})
    )
    return Section(
        "environment",
        "Environment",
        grids=(Grid(("", ""), rows, words=True),),
        folded="Versions, device and data",
    )


def _say(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_say(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) if len(value) <= 20 else f"{len(value)} values"
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )


def reproduce(run: Run, _: tuple[Figure, ...]) -> Section:
    """One command that makes the run again."""
    return Section(
        "reproduce", "How to reproduce", (_conditions(run),), code=reproduce_command(run)
    )


def _conditions(run: Run) -> str:
    same = (
        "On the CPU the same versions give the same bytes; on a GPU the numbers agree up to "
        "rounding."
    )
    teachers = run.summary.teachers if run.summary else ()
    pinned = "; ".join(
        teacher.checkpoint + (f" (sha256 {teacher.sha256[:12]})" if teacher.sha256 else "")
        for teacher in teachers
    )
    return f"{same} Teacher: {pinned}." if pinned else same


def reproduce_command(run: Run) -> str:
    """The command line; a run that was given a name needs another one, since runs are never
    overwritten.
    """
    folder = run.summary.run if run.summary else str(run.path)
    again = (
        f" --name {shlex.quote(run.recipe['name'] + '-again')}" if run.recipe.get("name") else ""
    )
    return f"kd {run.command} {shlex.quote(f'{folder}/{RECIPE_FILE}')}{again}"
