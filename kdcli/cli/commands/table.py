"""`kd table`: a sweep as the paper's table, ours beside theirs. Reads summaries only, imports no
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli.cli.commands.sweep import SweepFile
from kdcli.cli.console import Environment
from kdcli.cli.options import Out, Sets
from kdcli.cli.output.envelope import Outcome
from kdcli.errors import UsageError
from kdcli.runs.find import damaged_runs, runs_dir

if TYPE_CHECKING:
    from kdcli.report.tables.sweep import Table

NAME = "table"
EXAMPLES = """
kd table tables/energy-table7
kd table tables/energy-table7 --format latex > table7.tex
"""
FORMATS = ("md", "csv", "latex", "html")

Format = Annotated[str, typer.Option("--format", help="md, csv, latex or html.", metavar="NAME")]


def run(
    env: Environment, sweep: SweepFile, *, form: Format = "md", sets: Sets = None, out: Out = None
) -> Outcome:
    """Print a sweep as the paper's table, ours and theirs.

    Mean ± sd over seeds. A cell without a run is a dot.
    """
    from kdcli.recipe.sweep.cells import load_sweep
    from kdcli.report.tables.sweep import sweep_results, tabulate

    if form not in FORMATS:
        raise UsageError(
            f"{form!r} is not a format", hint=f"--format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
    loaded = load_sweep(sweep, sets=sets or ())
    loaded.check()
    folder = runs_dir(env.environ, out)
    damage = damaged_runs(folder)
    for sentence in damage:
        env.report(f"  {sentence}: left out")
    table = tabulate(
        sweep_results(loaded, folder),
        loaded.table,
        loaded.paper,
        title=loaded.title,
        command=f"kd table {sweep}",
    )
    env.write(_writer(form)(table))
    return Outcome(table.data, warnings=damage)


def _writer(form: str) -> Callable[[Table], str]:
    from kdcli.report.tables import formats

    return {
        "md": formats.to_markdown,
        "csv": formats.to_csv,
        "latex": formats.to_latex,
        "html": formats.to_html,
    }[form]
