"""A table as Markdown, CSV, LaTeX and HTML. The first, third and fourth show the same text; CSV has every digit."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from kdcli.report import metrics, words
from kdcli.report.html import page
from kdcli.report.summary import cell as markdown_cell
from kdcli.report.summary import escape
from kdcli.report.tables import SOLE_COLUMN, Cell, Table


@dataclass(frozen=True, slots=True)
class Shown:
    """The text of one cell, and whether it is marked as the best."""

    text: str
    best: bool = False


def headings(table: Table) -> tuple[str, ...]:
    """Column headings: one a setting and metric, followed by the paper's and the difference where there are any."""
    return (table.corner, *(heading for column, metric in _settings(table) for heading in _group(table, column, metric)))


def body(table: Table) -> Iterator[tuple[Shown, ...]]:
    """Rows of text, parallel to `headings`."""
    for row in table.rows:
        groups = (_shown(table, table.cells[row, column, metric]) for column, metric in _settings(table))
        yield Shown(row), *(shown for group in groups for shown in group)


def _settings(table: Table) -> list[tuple[str, str]]:
    return [(column, metric) for column in table.columns for metric in table.metrics]


def _paper_here(table: Table, column: str, metric: str) -> bool:
    return any(table.cells[row, column, metric].paper is not None for row in table.rows)


def _group(table: Table, column: str, metric: str) -> Iterator[str]:
    if column == SOLE_COLUMN:
        yield metrics.label(metric)
    else:
        yield f"{column} · {metrics.label(metric)}" if len(table.metrics) > 1 else column
    if _paper_here(table, column, metric):
        yield from ("paper", "Δ")


def _shown(table: Table, cell: Cell) -> Iterator[Shown]:
    yield Shown(_ours(table, cell), cell.best)
    if _paper_here(table, cell.column, cell.metric):
        digits = metrics.digits(cell.metric, table.images)
        paper, difference = (None if number is None else metrics.scaled(number, cell.metric) for number in (cell.paper, cell.difference))
        yield Shown(words.number(paper, digits))
        yield Shown(words.signed(difference, digits))


def _ours(table: Table, cell: Cell) -> str:
    if cell.mean is None:
        return words.MISSING
    digits = metrics.digits(cell.metric, table.images)
    text = words.number(metrics.scaled(cell.mean, cell.metric), digits)
    if cell.sd is not None:
        text += f" ± {words.number(metrics.scaled(cell.sd, cell.metric), digits)}"
    return text if _same_n(table) else f"{text} (n = {cell.n})"


def _same_n(table: Table) -> bool:
    return len({cell.n for cell in table.cells.values() if cell.n}) < 2


def _subject(table: Table) -> str:
    """What the numbers are, where the headings have no room for it."""
    single = len(table.metrics) == 1 and table.columns != (SOLE_COLUMN,)
    return f"Numbers: {metrics.label(table.metrics[0])}. " if single else ""


# ---- formats ---------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """The table in pipes; the best in bold; what the numbers rest on below it."""
    columns = headings(table)
    lines = [[markdown_cell(column) for column in columns], [":--", *["--:"] * (len(columns) - 1)]]
    lines += [[f"**{markdown_cell(shown.text)}**" if shown.best else markdown_cell(shown.text) for shown in row] for row in body(table)]
    grid = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    title = [f"## {escape(table.title)}"] if table.title else []
    return "\n\n".join([*title, grid, escape(_subject(table) + " ".join(table.notes))]) + "\n"


def to_csv(table: Table) -> str:
    """One line a cell, every digit, in the units of files: accuracy as a fraction. A number that is not there is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "column", "metric", "n", "missing", "mean", "sd", "paper", "difference", "source", "values"])
    for cell in table.cells.values():
        values = " ".join(repr(value) for value in cell.values)
        numbers = [cell.mean, cell.sd, cell.paper, cell.difference]
        said = ["" if number is None else repr(number) for number in numbers]
        writer.writerow([cell.row, cell.column, cell.metric, cell.n, cell.missing, *said, cell.source, values])
    return buffer.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "τ": r"$\tau$",
    words.MINUS: "$-$",
    words.MISSING: r"$\cdot$",
    words.NBSP: "~",
    "×": r"$\times$",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
}


def latex(text: str) -> str:
    """Text with what LaTeX would take as commands written so that it shows."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_latex(table: Table) -> str:
    """A table environment for the booktabs package; the best in bold."""
    columns = headings(table)
    rows = [" & ".join(f"\\textbf{{{latex(shown.text)}}}" if shown.best else latex(shown.text) for shown in row) for row in body(table)]
    caption = latex(f"{table.title}. " if table.title else "") + latex(_subject(table) + " ".join(table.notes))
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{caption}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        "\\toprule",
        " & ".join(latex(column) for column in columns) + r" \\",
        "\\midrule",
        *(f"{row} \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """The table as a page of its own, in the look of the reports: nothing is fetched."""
    return page("table.html.jinja", table=table, columns=headings(table), rows=list(body(table)), subject=_subject(table))
