"""report.md: the report as Markdown, for a terminal, a pull request or a CI summary. Same parts,
same order, same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdcli.report.findings.run import gate_sentence, lead, missing_baseline, verdict
from kdcli.report.markdown import code_block, escape
from kdcli.report.page.parts import Grid, Section
from kdcli.runs.read import Run

_BOLD = 0.5  # of the widest shade: words that stand out where there are no colours


def to_markdown(run: Run, parts: Sequence[Section]) -> str:
    """The report as GitHub-flavoured Markdown; parts: what `sections` made of the run. Figures are
    links to plots/NAME.svg.
    """
    blocks = [f"# {escape(run.name)}", f"**{escape(verdict(run))}**"]
    blocks += [escape(sentence) for sentence in lead(run)]
    if command := missing_baseline(run):
        blocks.append(code_block(command, "sh"))
    if run.summary and run.summary.gates:
        blocks.append(
            "\n".join(_gate(gate.passed, gate_sentence(gate)) for gate in run.summary.gates)
        )
    said = (*run.summary.warnings, *run.summary.notes) if run.summary else ()
    blocks += [f"> Note: {escape(sentence)}" for sentence in (*run.damage, *said)]
    for section in parts:
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def _gate(passed: bool, sentence: str) -> str:  # noqa: FBT001  one line, one call
    return f"- {'✓ passed' if passed else '✗ missed'}: {escape(sentence)}"


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    yield from (escape(paragraph) for paragraph in section.text)
    for passage in section.passages:
        yield f"### {escape(passage.title)}"
        yield " ".join(
            f"**{escape(word.text)}**" if word.strength > _BOLD else escape(word.text)
            for word in passage.words
        )
    yield from (grid_markdown(grid) for grid in section.grids)
    yield from (grid_markdown(gallery.grid) for gallery in section.galleries)
    if section.plots:
        yield "Figures: " + ", ".join(
            f"[{escape(plot.title)}](plots/{plot.name}.svg)" for plot in section.plots
        )
    if section.code:
        yield code_block(section.code, "toml" if section.key == "recipe" else "sh")


def grid_markdown(grid: Grid) -> str:
    """A table in pipes, numbers to the right, words to the left; the caption follows it."""
    columns = [escape(column) or " " for column in grid.columns]
    lines = [
        columns,
        [":--", *[":--" if grid.words else "--:"] * (len(columns) - 1)],
        *([escape(text) for text in row] for row in grid.rows),
    ]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n_{escape(grid.caption)}_" if grid.caption else table
