"""A table as Markdown, CSV, LaTeX and HTML. The first, third and fourth show the same text; CSV has
every digit.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields

from kdcli import formatting
from kdcli.report.markdown import escape
from kdcli.report.page.html import render
from kdcli.report.tables import metrics
from kdcli.report.tables.sweep import SOLE_COLUMN, Table
from kdcli.results.sweep import CellComparison, TableCell


@dataclass(frozen=True, slots=True)
class Shown:
    """The text of one cell, and whether it is marked as the best."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One grid of a table. title: what its numbers are, empty where the headings say so."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]


def panels(table: Table) -> Iterator[Panel]:
    """The grids that a table is shown as: one a metric where it has columns of its own, else one
    with a column a metric; then the differences, where they were asked for.
    """
    if table.data.columns == (SOLE_COLUMN,):
        yield _panel(table, "", [(SOLE_COLUMN, metric) for metric in table.data.metrics])
    else:
        for metric in table.data.metrics:
            title = metrics.label(metric) if len(table.data.metrics) > 1 else ""
            yield _panel(
                table,
                title[:1].upper() + title[1:],
                [(column, metric) for column in table.data.columns],
            )
    if table.compared:
        yield differences(table)


def differences(table: Table) -> Panel:
    """By how much the best of each line is better than each of the others, and whether that is more
    than chance.
    """
    return Panel(
        "The best of each line beside the others",
        (
            "metric",
            "best",
            "beside",
            "difference, 95 %",
            "p over seeds",
            "over images",
            "corrected",
        ),
        tuple(_difference(table, each) for each in table.data.comparisons),
    )


def _difference(table: Table, each: CellComparison) -> tuple[Shown, ...]:
    digits = metrics.digits(each.metric, table.images)

    def number(value: float | None) -> str:
        scaled = None if value is None else metrics.scaled(value, each.metric)
        return formatting.signed(scaled, digits)

    interval = "" if each.low is None else f" ({number(each.low)} to {number(each.high)})"
    texts = (
        metrics.label(each.metric),
        _place(each.row, each.column),
        _place(each.other_row, each.other_column),
        f"{number(each.difference)}{interval}",
        *(_p_value(p) for p in (each.p_seeds, each.p_images, each.p_value)),
    )
    return tuple(Shown(text, each.stands_out and place == 1) for place, text in enumerate(texts))


def _place(row: str, column: str) -> str:
    return row if column == SOLE_COLUMN else f"{row}, {column}"


def _p_value(p: float | None) -> str:
    if p is None:
        return formatting.MISSING
    return "< 0.001" if p < 0.001 else formatting.number(p)


def _panel(table: Table, title: str, settings: list[tuple[str, str]]) -> Panel:
    headings = (
        table.corner,
        *(heading for column, metric in settings for heading in _group(table, column, metric)),
    )
    rows = tuple(
        (
            Shown(row),
            *(
                shown
                for column, metric in settings
                for shown in _shown(table, table.cells[row, column, metric])
            ),
        )
        for row in table.data.rows
    )
    return Panel(title, headings, rows)


def _paper_here(table: Table, column: str, metric: str) -> bool:
    return any(table.cells[row, column, metric].paper is not None for row in table.data.rows)


def _group(table: Table, column: str, metric: str) -> Iterator[str]:
    yield metrics.label(metric) if column == SOLE_COLUMN else column
    if _paper_here(table, column, metric):
        yield from ("paper", "Δ")


def _shown(table: Table, cell: TableCell) -> Iterator[Shown]:
    yield Shown(_ours(table, cell), (cell.row, cell.column, cell.metric) in table.best)
    if _paper_here(table, cell.column, cell.metric):
        digits = metrics.digits(cell.metric, table.images)
        paper, difference = (
            None if number is None else metrics.scaled(number, cell.metric)
            for number in (cell.paper, cell.difference)
        )
        yield Shown(formatting.number(paper, digits))
        yield Shown(formatting.signed(difference, digits))


def _ours(table: Table, cell: TableCell) -> str:
    if cell.mean is None:
        return formatting.MISSING
    digits = metrics.digits(cell.metric, table.images)
    text = formatting.number(metrics.scaled(cell.mean, cell.metric), digits)
    if cell.sd is not None:
        text += f" ± {formatting.number(metrics.scaled(cell.sd, cell.metric), digits)}"
    return text if _same_n(table) else f"{text} (n = {cell.n})"


def _same_n(table: Table) -> bool:
    return len({cell.n for cell in table.data.cells if cell.n}) < 2


def _subject(table: Table) -> str:
    """What the numbers are, where the headings have no room for it."""
    single = len(table.data.metrics) == 1 and table.data.columns != (SOLE_COLUMN,)
    return f"Numbers: {metrics.label(table.data.metrics[0])}. " if single else ""


# ---- formats -------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """The table in pipes; the best in bold; what the numbers rest on below it."""
    title = [f"## {escape(table.data.title)}"] if table.data.title else []
    grids = [text for panel in panels(table) for text in _pipes(panel)]
    return (
        "\n\n".join([*title, *grids, escape(_subject(table) + " ".join(table.data.notes))]) + "\n"
    )


def _pipes(panel: Panel) -> Iterator[str]:
    if panel.title:
        yield f"### {escape(panel.title)}"
    lines = [
        [escape(heading) for heading in panel.headings],
        [":--", *["--:"] * (len(panel.headings) - 1)],
    ]
    lines += [
        [f"**{escape(shown.text)}**" if shown.best else escape(shown.text) for shown in row]
        for row in panel.rows
    ]
    yield "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_csv(table: Table) -> str:
    """One line a cell, every digit, in the units of files: accuracy as a fraction. A number that is
    not there is empty. One line a comparison instead, where those were asked for.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if table.compared:
        names = [each.name for each in fields(CellComparison)]
        writer.writerow(names)
        for comparison in table.data.comparisons:
            found = [getattr(comparison, name) for name in names]
            writer.writerow(["" if value is None else value for value in found])
        return buffer.getvalue()
    writer.writerow(
        [
            "row",
            "column",
            "metric",
            "n",
            "missing",
            "mean",
            "sd",
            "paper",
            "difference",
            "source",
            "values",
        ]
    )
    for cell in table.data.cells:
        values = " ".join(repr(value) for value in cell.values)
        numbers = [cell.mean, cell.sd, cell.paper, cell.difference]
        said = ["" if number is None else repr(number) for number in numbers]
        writer.writerow(
            [cell.row, cell.column, cell.metric, cell.n, cell.missing, *said, cell.source, values]
        )
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
    formatting.MINUS: "$-$",
    formatting.MISSING: r"$\cdot$",
    formatting.NBSP: "~",
    "×": r"$\times$",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
}


def latex(text: str) -> str:
    """Text with what LaTeX would take as commands written so that it shows."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_latex(table: Table) -> str:
    """A table environment for the booktabs package; the best in bold."""
    caption = latex(f"{table.data.title}. " if table.data.title else "") + latex(
        _subject(table) + " ".join(table.data.notes)
    )
    grids = "\n\n\\medskip\n".join(_tabular(panel) for panel in panels(table))
    return f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{grids}\n\\end{{table}}\n"


def _tabular(panel: Panel) -> str:
    rows = [
        " & ".join(
            f"\\textbf{{{latex(shown.text)}}}" if shown.best else latex(shown.text) for shown in row
        )
        for row in panel.rows
    ]
    lines = [
        *([f"{latex(panel.title)}\\\\"] if panel.title else []),
        f"\\begin{{tabular}}{{l{'r' * (len(panel.headings) - 1)}}}",
        "\\toprule",
        " & ".join(latex(heading) for heading in panel.headings) + r" \\",
        "\\midrule",
        *(f"{row} \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines)


def to_html(table: Table) -> str:
    """The table as a page of its own, in the look of the reports: nothing is fetched."""
    return render(
        "table.html.jinja", table=table.data, panels=list(panels(table)), subject=_subject(table)
    )
