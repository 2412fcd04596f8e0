"""Writes a run's report: once when it finishes, and again whenever somebody asks, from its files
alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdcli.files import write_page
from kdcli.report.figures.run import figures_of_run
from kdcli.report.findings.baseline import find_baseline
from kdcli.report.page.model_card import to_card
from kdcli.report.page.run_sections import sections
from kdcli.report.page.summary import to_markdown
from kdcli.runs.read import Run

HTML_FILE, MARKDOWN_FILE, CARD_FILE, PLOTS_FOLDER = (
    "report.html",
    "report.md",
    "MODEL_CARD.md",
    "plots",
)


def build(run: str | Path, *, html: bool = True) -> Path:
    """Writes report.md, MODEL_CARD.md and, with `html`, report.html and plots/; each file is
    replaced whole.

    The same run gives the same bytes. An unfinished run gets a report that says so, and no model
    card.

    Returns: the page to open.

    Raises:
        NotFound: there is no run. CorruptFile: one of its files is damaged. NotWritable, DiskFull:
            the folder takes no files.
    """
    loaded = Run.load(run)
    loaded = replace(loaded, baseline=find_baseline(loaded))
    plots = figures_of_run(loaded) if html else ()
    parts = sections(loaded, plots)
    for plot in plots:
        write_page(loaded.path / PLOTS_FOLDER / f"{plot.name}.svg", plot.svg)
    write_page(loaded.path / MARKDOWN_FILE, to_markdown(loaded, parts))
    if loaded.summary:
        write_page(loaded.path / CARD_FILE, to_card(loaded, loaded.summary))
    if not html:
        return loaded.path / MARKDOWN_FILE
    from kdcli.report.page.html import to_html

    write_page(loaded.path / HTML_FILE, to_html(loaded, parts))
    return loaded.path / HTML_FILE
