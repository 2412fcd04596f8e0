"""`kd table`: a sweep as the paper's table, ours beside theirs. Reads summaries only, imports no
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli.cli.commands.sweep import SweepFile
from kdcli.cli.console import Environment
from kdcli.cli.options import Out, Sets
from kdcli.cli.output import figure_file
from kdcli.cli.output.envelope import Outcome
from kdcli.errors import UsageError
from kdcli.runs.find import damaged_runs, runs_dir

if TYPE_CHECKING:
    from kdcli.report.tables.sweep import Table

NAME = "table"
EXAMPLES = """
kd table tables/energy-table7
kd table tables/energy-table7 --format latex > table7.tex
kd table digits/methods --differences --plot methods.svg
"""
FORMATS = ("md", "csv", "latex", "html")

Differences = Annotated[
    bool,
    typer.Option(
        "--differences",
        help="Also by how much the best of each line is better than each of the others, with "
        "intervals and p-values.",
    ),
]
PlotFile = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        help="Draw the table as lines into this SVG or PNG.",
        metavar="FILE",
        show_default=False,
    ),
]
Format = Annotated[str, typer.Option("--format", help="md, csv, latex or html.", metavar="NAME")]


def run(
    env: Environment,
    sweep: SweepFile,
    *,
    form: Format = "md",
    differences: Differences = False,
    plot: PlotFile = None,
    sets: Sets = None,
    out: Out = None,
) -> Outcome:
    """Print a sweep as the paper's table, ours and theirs.

    Mean ± sd over seeds. A cell without a run is a dot. Bold is what is better than all others of
    its line by more than chance.
    """
    from kdcli.recipe.sweep.cells import load_sweep
    from kdcli.report.tables.sweep import sweep_results, tabulate

    if form not in FORMATS:
        raise UsageError(
            f"{form!r} is not a format", hint=f"--format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
    if plot is not None:
        figure_file.check(plot)
    loaded = load_sweep(sweep, sets=sets or ())
    loaded.check()
    folder = runs_dir(env.environ, out)
    damage = damaged_runs(folder)
    for sentence in damage:
        env.report(f"  {sentence}: left out")
    finished = sweep_results(loaded, folder)
    for sentence in finished.damage:
        env.report(f"  {sentence}: it is not tested over images")
    damage = (*damage, *finished.damage)
    table = tabulate(
        finished.results,
        loaded.table,
        loaded.paper,
        title=loaded.title,
        command=f"kd table {sweep}",
        right=finished.right,
    )
    env.write(_writer(form)(replace(table, compared=differences)))
    if plot is not None:
        from kdcli.report.tables.sweep_figure import sweep as draw

        rows, columns = (", ".join(axes) for axes in (loaded.table.rows, loaded.table.columns))
        figure_file.write(draw(table.data, rows, columns), plot)
        env.report(f"  figure   {plot}")
    return Outcome(table.data, warnings=damage)


def _writer(form: str) -> Callable[[Table], str]:
    from kdcli.report.tables import formats

    return {
        "md": formats.to_markdown,
        "csv": formats.to_csv,
        "latex": formats.to_latex,
        "html": formats.to_html,
    }[form]
