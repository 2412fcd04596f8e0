"""`kd report`: a run's pages made again, from its files alone. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli import completion
from kdcli.cli.console import Environment
from kdcli.cli.output import github
from kdcli.cli.output.envelope import Outcome

NAME = "report"
EXAMPLES = """
kd report runs/latest
kd report runs/skd-cnn-small-digits-1 --no-html
"""

RunDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run directory.", show_default=False, autocompletion=completion.runs
    ),
]
Html = Annotated[bool, typer.Option("--html/--no-html", help="Also report.html with its plots.")]


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """The files that were written. report: the page to open."""

    run: str
    report: str
    files: tuple[str, ...]


def run(env: Environment, run: RunDirectory, *, html: Html = True) -> Outcome:
    """Write a run's report and model card again."""
    from kdcli.report.page.build import CARD_FILE, HTML_FILE, MARKDOWN_FILE, build
    from kdcli.runs.find import find_run
    from kdcli.runs.read import Run

    folder = find_run(run)
    damage = Run.load(folder).damage
    page = build(folder, html=html)
    names = (HTML_FILE, MARKDOWN_FILE, CARD_FILE) if html else (MARKDOWN_FILE, CARD_FILE)
    files = tuple(str(folder / name) for name in names if (folder / name).is_file())
    for sentence in damage:
        env.report(f"  {sentence}")
    env.answer(("✓", "green"), f" {page}")
    github.summarise(env, folder / MARKDOWN_FILE)
    return Outcome(ReportFiles(str(folder), str(page), files), warnings=damage)
