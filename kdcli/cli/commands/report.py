"""`kd report`: a run's pages made again, or one page over a folder of runs, from their files alone.
Imports no torch.
"""

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
kd report runs/
"""

RunDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run directory, or a folder of them.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
Html = Annotated[bool, typer.Option("--html/--no-html", help="Also report.html with its plots.")]


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """The files that were written. run: a run, or a folder of them; report: the page to open."""

    run: str
    report: str
    files: tuple[str, ...]


def run(env: Environment, run: RunDirectory, *, html: Html = True) -> Outcome:
    """Write a run's pages again, or one page over a folder of runs.

    A run's pages are its report and model card. The page over a folder has a table of all finished
    runs, with links to their own pages, and accuracy against size and latency with the frontier
    drawn.
    """
    from kdcli.report.page.build import CARD_FILE, HTML_FILE, MARKDOWN_FILE, build
    from kdcli.runs.find import find_run, runs_in
    from kdcli.runs.folder import RECIPE_FILE
    from kdcli.runs.read import Run

    if run.is_dir() and not (run / RECIPE_FILE).is_file() and runs_in(run):
        return _of_folder(env, run, html=html)
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


def _of_folder(env: Environment, folder: Path, *, html: bool) -> Outcome:
    from kdcli.report.tables.folder import INDEX_HTML, INDEX_MARKDOWN, build_overview

    page, found = build_overview(folder, html=html)
    for sentence in found.notes:
        env.report(f"  {sentence}")
    env.answer(("✓", "green"), f" {page}")
    github.summarise(env, folder / INDEX_MARKDOWN)
    names = (INDEX_HTML, INDEX_MARKDOWN) if html else (INDEX_MARKDOWN,)
    files = tuple(str(folder / name) for name in names)
    return Outcome(ReportFiles(str(folder), str(page), files), warnings=found.notes)
