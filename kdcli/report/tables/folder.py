"""`kd report FOLDER`: one page over all runs of a folder. No torch.

A table that a script sorts, and that stands sorted by accuracy without one; accuracy against what a
network costs, with the frontier drawn; links to the runs' own pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kdcli import __version__, catalog, formatting
from kdcli.errors import KdError
from kdcli.files import write_page
from kdcli.report.figures.frontier import Point, frontier
from kdcli.report.figures.svg import Figure
from kdcli.report.markdown import escape
from kdcli.report.page.build import HTML_FILE, MARKDOWN_FILE
from kdcli.report.page.html import render
from kdcli.results.cost import Latency
from kdcli.results.measures import share_of
from kdcli.results.run import RunResult
from kdcli.runs.find import runs_in
from kdcli.runs.read import Run

INDEX_HTML, INDEX_MARKDOWN = "index.html", "index.md"
MOST_DATASETS = 6  # that have figures; those with the most runs


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the table. value: what it sorts by; text that is not a number sorts as text."""

    text: str
    value: float | str
    href: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A kind of number of all runs."""

    heading: str
    of: Callable[[RunResult], Cell]
    words: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished run with what it is compared by. data: equal where test images are."""

    run: Run
    summary: RunResult
    data: tuple[str, str, int, str]


def _number(value: float | None, text: Callable[[float], str]) -> Cell:
    return Cell(formatting.MISSING, "") if value is None else Cell(text(value), value)


def _milliseconds(found: Latency | None) -> Cell:
    if found is None:
        return Cell(formatting.MISSING, "")
    seconds = found.seconds.value
    return Cell(formatting.milliseconds(seconds), seconds)


def _gates(run: RunResult) -> Cell:
    if not run.gates:
        return Cell(formatting.MISSING, "")
    missed = sum(not gate.passed for gate in run.gates)
    return Cell(f"{missed} missed", f"1 {missed}") if missed else Cell("passed", "0")


COLUMNS: tuple[Column, ...] = (
    Column("data", lambda run: Cell(run.data, run.data), words=True),
    Column("network", lambda run: Cell(run.network, run.network), words=True),
    Column("method", lambda run: Cell(run.method, run.method), words=True),
    Column(
        "accuracy, %",
        lambda run: _number(
            run.test.accuracy,
            lambda value: formatting.number(100 * value, formatting.percent_digits(run.test.n)),
        ),
    ),
    Column(
        "95 % interval",
        lambda run: _number(
            run.test.labelled and run.test.labelled.accuracy_interval.low,
            lambda _: formatting.percent_range(run.test.accuracy_interval, run.test.n),
        ),
    ),
    Column("macro-F1", lambda run: _number(run.test.macro_f1, formatting.number)),
    Column("parameters", lambda run: Cell(formatting.count(run.parameters), run.parameters)),
    Column(
        "multiply-adds",
        lambda run: _number(
            run.cost.macs if run.cost else None, lambda value: formatting.count(int(value))
        ),
    ),
    Column("1 image, ms", lambda run: _milliseconds(run.cost.latency(1) if run.cost else None)),
    Column("32 images, ms", lambda run: _milliseconds(run.cost.latency(32) if run.cost else None)),
    Column("gates", _gates, words=True),
)


@dataclass(frozen=True, slots=True)
class Overview:
    """All runs of a folder. rows: name and cells of each finished run, by data and accuracy; notes:
    what is not in them, and why; figures: of the data with the most runs.
    """

    folder: Path
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]


def overview(folder: Path, *, draw: bool = True) -> Overview:
    """Reads all runs directly under a folder; damaged and unfinished ones become notes."""
    finished, notes = _read(folder)
    finished.sort(
        key=lambda item: (item.data, -(share_of(item.summary.test) or 0.0), item.run.path.name)
    )
    rows = tuple(
        (_named(item), *(column.of(item.summary) for column in COLUMNS)) for item in finished
    )
    groups = Counter(item.data for item in finished)
    drawn = [data for data, count in groups.most_common(MOST_DATASETS) if count > 1]
    if left := sum(count > 1 for count in groups.values()) - len(drawn):
        notes.append(f"Figures are of the {MOST_DATASETS} data with the most runs; {left} are not.")
    figures = [
        figure
        for place, data in enumerate(drawn if draw else ())
        for figure in _figures([item for item in finished if item.data == data], place)
    ]
    return Overview(folder, rows, tuple(notes), tuple(figures))


def _read(folder: Path) -> tuple[list[Measured], list[str]]:
    finished: list[Measured] = []
    notes: list[str] = []
    for path in runs_in(folder):
        try:
            run = Run.load(path)
        except KdError as error:
            notes.append(error.message)
            continue
        notes += run.damage
        if run.summary is None:
            notes.append(f"{run.path.name} is not finished: kd resume {path} goes on")
            continue
        facts = run.environment.get("data")
        known = str(facts.get("fingerprint", "")) if isinstance(facts, dict) else ""
        test = run.summary.test
        data = (run.summary.data, test.split, test.n, known)
        finished.append(Measured(run, run.summary, data))
    return finished, notes


def _named(item: Measured) -> Cell:
    name = item.run.path.name
    page = next(
        (page for page in (HTML_FILE, MARKDOWN_FILE) if (item.run.path / page).is_file()), ""
    )
    return Cell(name, name, f"{quote(name)}/{page}" if page else "")


# ---- figures -------------------------------------------------------------------------------------


def _figures(items: Sequence[Measured], place: int) -> Iterator[Figure]:
    data, _, n, _ = items[0].data
    items = [item for item in items if item.summary.test.labelled is not None]
    basis = f"{data}, n = {formatting.plural(n, 'test image')}; bars are Wilson's 95 % intervals."
    sizes = [_point(item, item.summary.parameters) for item in items]
    if _differ(sizes):
        yield frontier(
            sizes,
            name=f"accuracy-by-size-{place}",
            title=f"{data}: accuracy against size",
            axis="parameters",
            basis=basis,
        )
    timed = [(item, found) for item in items if (found := _timed(item)) is not None]
    if not timed:
        return
    # what was timed elsewhere cannot stand on the same axis
    ways = Counter((found.device, found.threads) for _, found in timed)
    device, threads = way = ways.most_common(1)[0][0]
    alike = [
        _point(item, 1000 * found.seconds.value)
        for item, found in timed
        if (found.device, found.threads) == way
    ]
    if not _differ(alike):
        return
    others = len(items) - len(alike)
    where = (
        f"Median of one image in eager PyTorch, {device}, {formatting.plural(threads, 'thread')}"
    )
    left = f"; {formatting.plural(others, 'run')} measured otherwise left out" if others else ""
    yield frontier(
        alike,
        name=f"accuracy-by-latency-{place}",
        title=f"{data}: accuracy against latency",
        axis="latency of one image, ms",
        basis=f"{where}{left}. {basis}",
    )


def _differ(points: Sequence[Point]) -> bool:
    return len({each.cost for each in points}) > 1


def _timed(item: Measured) -> Latency | None:
    return item.summary.cost.latency(1) if item.summary.cost else None


def _point(item: Measured, cost: float) -> Point:
    test = item.summary.test.labelled
    assert test is not None  # those without labels are not drawn
    method = catalog.entries("method").get(item.summary.method)
    labels_alone = method is not None and method.family == "baseline"
    distilled = item.summary.command == "distill" and not labels_alone
    return Point(item.run.path.name, cost, test.accuracy, test.accuracy_interval, distilled)


# ---- pages ---------------------------------------------------------------------------------------


def build_overview(folder: Path, *, html: bool = True) -> tuple[Path, Overview]:
    """Writes index.md and, with `html`, index.html into a folder of runs.

    Returns: the page to open, and what it shows.

    Raises:
        NotWritable, DiskFull: the folder takes no files.
    """
    found = overview(folder, draw=html)
    write_page(folder / INDEX_MARKDOWN, to_markdown(found))
    if not html:
        return folder / INDEX_MARKDOWN, found
    write_page(folder / INDEX_HTML, to_html(found))
    return folder / INDEX_HTML, found


def _headline(found: Overview) -> str:
    return f"{formatting.plural(len(found.rows), 'finished run')} in {found.folder.resolve().name}"


_HOW = (
    "By data, the most accurate first. A run is on the frontier where none of the same data is at "
    "least as accurate and costs less. Accuracies of runs on the same images differ by noise too: "
    "kd evaluate RUN RUN tests it."
)


def to_html(found: Overview) -> str:
    """One page; the table is sorted by a click on a heading, by a script that it can do without."""
    return render(
        "folder.html.jinja",
        title=_headline(found),
        headings=[("run", True), *((column.heading, column.words) for column in COLUMNS)],
        rows=found.rows,
        how=_HOW,
        notes=found.notes,
        figures=found.figures,
        footer=f"Made by kd {__version__} from the files of these runs.",
    )


def to_markdown(found: Overview) -> str:
    """The same table and notes as Markdown."""
    headings = ["run", *(column.heading for column in COLUMNS)]
    words = [True, *(column.words for column in COLUMNS)]
    lines = [headings, [":--" if each else "--:" for each in words]]
    lines += [[_linked(cell) for cell in row] for row in found.rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = [f"> Note: {escape(note)}" for note in found.notes]
    parts = [f"# {escape(_headline(found))}", *([table] if found.rows else []), _HOW, *notes]
    return "\n\n".join(parts) + "\n"


def _linked(cell: Cell) -> str:
    return f"[{escape(cell.text)}]({cell.href})" if cell.href else escape(cell.text)
