"""Messages for GitHub Actions: annotations at a file's line, foldable groups, and the summary of
the job.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from kdcli import clean
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import ErrorItem


def _escape(text: str, *, value: bool = False) -> str:
    """Escapes of workflow commands; a property's value may not hold a colon or comma either."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.replace(":", "%3A").replace(",", "%2C") if value else escaped


def annotate(env: Environment, items: Iterable[ErrorItem]) -> None:
    """Shows each error at its place in the pull request."""
    if not env.github:
        return
    for item in items:
        place = {}
        if item.where is not None:
            place = {"file": item.where.file, "line": item.where.line, "col": item.where.column}
        properties = ",".join(
            f"{key}={_escape(str(value), value=True)}"
            for key, value in place.items()
            if value is not None
        )
        message = f"{item.message}  ({item.hint})" if item.hint else item.message
        env.complain(
            f"::error {properties}::{_escape(message)}"
            if properties
            else f"::error::{_escape(message)}"
        )


def group(env: Environment, title: str) -> None:
    """Begins a foldable part of the log."""
    if env.github:
        env.progress(f"::group::{_escape(title)}")


def end_group(env: Environment) -> None:
    """Ends it."""
    if env.github:
        env.progress("::endgroup::")


def summarise(env: Environment, report: Path) -> None:
    """Appends a run's report.md to the job's summary page."""
    target = env.environ.get("GITHUB_STEP_SUMMARY")
    if env.github and target and report.is_file():
        # a missing page fails no run
        with (
            contextlib.suppress(OSError),
            Path(target).open("a", encoding="utf-8") as summary,
        ):
            summary.write(clean.text(report.read_text(encoding="utf-8")) + "\n")
