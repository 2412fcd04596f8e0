"""`kd compare`: what differed between runs, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli import completion
from kdcli.cli.console import Environment
from kdcli.cli.output import figure_file
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.text import columns, wrap

NAME = "compare"
EXAMPLES = """
kd compare runs/kd-cnn-small-digits-1 runs/skd-cnn-small-digits-1
kd compare runs/*-digits-* --plot curves.svg
"""

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN", help="Run directories.", show_default=False, autocompletion=completion.runs
    ),
]
PlotFile = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        help="Draw accuracy, and gaps that were probed, along training into this SVG or PNG.",
        metavar="FILE",
        show_default=False,
    ),
]


def run(env: Environment, runs: Runs, *, plot: PlotFile = None) -> Outcome:
    """Set runs side by side: what differed, what came of it."""
    from kdcli.report.tables.compare import compare, grids, overlay
    from kdcli.runs.read import Run

    loaded = [Run.load(path) for path in runs]
    if plot is not None:
        figure_file.check(plot)
    damage = tuple(sentence for run in loaded for sentence in run.damage)
    for sentence in damage:
        env.report(f"  {sentence}")
    comparison = compare(loaded)
    if not comparison.differences:
        env.answer("  the recipes are the same")
    for grid in grids(comparison):
        for line in columns([grid.columns, *grid.rows], "<" + ">" * (len(grid.columns) - 1), gap=3):
            env.answer(line)
        if grid.caption:
            for line in wrap(grid.caption).split("\n"):
                env.answer(line)
        env.answer()
    if plot is not None:
        figure_file.write(overlay(loaded), plot)
        env.report(f"  curves   {plot}")
    return Outcome(comparison, warnings=damage)
