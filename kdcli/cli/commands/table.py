"""`kd table`: a sweep as the paper's table, ours beside theirs. Reads summaries only, imports no
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli.cli.commands.sweep import SweepFile
from kdcli.cli.console import Environment
from kdcli.cli.options import Out, Sets
from kdcli.cli.output.envelope import Outcome
from kdcli.errors import UsageError
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.recipe.sweep.cells import Sweep
    from kdcli.report.tables.sweep import Table

NAME = "table"
EXAMPLES = """
kd table tables/energy-table7
kd table tables/energy-table7 --format latex > table7.tex
"""
FORMATS = ("md", "csv", "latex", "html")

Format = Annotated[str, typer.Option("--format", help="md, csv, latex or html.", metavar="NAME")]


@dataclass(frozen=True, slots=True)
class TableCell:
    """One setting: the mean of n runs, its sample standard deviation, the published number and ours
    minus theirs.
    """

    row: str
    column: str
    metric: str
    values: tuple[float, ...]
    n: int
    missing: int
    mean: float | None
    sd: float | None
    paper: float | None
    difference: float | None
    source: str


@dataclass(frozen=True, slots=True)
class TableData:
    """A sweep as a table."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: tuple[TableCell, ...]
    notes: tuple[str, ...]


def run(
    env: Environment, sweep: SweepFile, *, form: Format = "md", sets: Sets = None, out: Out = None
) -> Outcome:
    """Print a sweep as the paper's table, ours and theirs.

    Mean ± sd over seeds. A cell without a run is a dot.
    """
    from kdcli.recipe.sweep.cells import load_sweep
    from kdcli.report.tables.sweep import sweep_results

    if form not in FORMATS:
        raise UsageError(
            f"{form!r} is not a format", hint=f"--format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
    loaded = load_sweep(sweep, sets=sets or ())
    loaded.check()
    table = _tabulate(
        loaded,
        [(labels, result) for labels, result in sweep_results(loaded, runs_dir(env.environ, out))],
        sweep,
    )
    env.write(_writer(form)(table))
    return Outcome(_data(table))


def _tabulate(sweep: Sweep, results: list[tuple[Mapping[str, str], object]], name: str) -> Table:
    from kdcli.recipe.sweep.cells import join
    from kdcli.report.tables.sweep import Layout, PaperValue, tabulate

    shape = sweep.table
    rows, columns = ", ".join(shape.rows), ", ".join(shape.columns)
    placed = [
        ({rows: join(labels, shape.rows), columns: join(labels, shape.columns)}, result)
        for labels, result in results
    ]
    layout = Layout(
        rows, columns or None, ", ".join(shape.over) or "seed", shape.metrics, sweep.title
    )
    paper = [
        PaperValue(entry.row, entry.column, entry.metric, entry.value, entry.source)
        for entry in sweep.paper
    ]
    return tabulate(placed, layout, paper, command=f"kd table {name}")  # type: ignore[arg-type]


def _writer(form: str) -> Callable[[Table], str]:
    from kdcli.report.tables import formats

    return {
        "md": formats.to_markdown,
        "csv": formats.to_csv,
        "latex": formats.to_latex,
        "html": formats.to_html,
    }[form]


def _data(table: Table) -> TableData:
    cells = tuple(
        TableCell(
            cell.row,
            cell.column,
            cell.metric,
            cell.values,
            cell.n,
            cell.missing,
            cell.mean,
            cell.sd,
            cell.paper,
            cell.difference,
            cell.source,
        )
        for cell in table.cells.values()
    )
    return TableData(table.title, table.rows, table.columns, table.metrics, cells, table.notes)
