"""The page of a search: what was tried, what each came to, and what was taken. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcli import __version__, formatting
from kdcli.files import write_page
from kdcli.report.figures.frontier import Point, frontier
from kdcli.report.figures.svg import Figure
from kdcli.report.markdown import escape
from kdcli.results.search import Candidate, FoundTeacher, Score, SearchResult, Trial

PAGE, PLOT = "search.md", "search.svg"
TEACHER_PAGE = "find-teacher.md"

Row = tuple[str, ...]

STUDENT_HEADINGS: Row = (
    "trial", "student", "size", "ms", "method", "temp", "lr", "epochs", "held out", "95 %", "",
)  # fmt: skip
TEACHER_HEADINGS: Row = (
    "trial", "batch", "smooth", "temp", "epochs", "teacher", "entropy", "student", "95 %", "took",
    "",
)  # fmt: skip


# ---- a student -----------------------------------------------------------------------------------


def student_rows(result: SearchResult, only: Sequence[int] | None = None) -> list[Row]:
    """A row for each trial that came to anything, those that came furthest first, then by size.

    Args:
        only: numbers of trials; all unless given.
    """
    known = {each.name: each for each in result.candidates}
    trials = [each for each in result.trials if only is None or each.number in only]

    def order(trial: Trial) -> tuple[int, int, int]:
        reached = trial.last.epochs if trial.last else 0
        return -reached, known[str(trial.parameters["student"])].parameters, trial.number

    return [_student_row(each, known, result) for each in sorted(trials, key=order)]


def _student_row(trial: Trial, known: Mapping[str, Candidate], result: SearchResult) -> Row:
    student = known[str(trial.parameters["student"])]
    latency = student.latency_ms
    return (
        str(trial.number),
        student.name,
        formatting.count(student.parameters),
        formatting.MISSING if latency is None else formatting.milliseconds(latency / 1000),
        str(trial.parameters["method"]),
        _number(trial.parameters.get("temperature")),
        _number(trial.parameters.get("lr")),
        str(trial.last.epochs) if trial.last else formatting.MISSING,
        *_measured(trial.last),
        _word(trial, chosen=trial.number == result.chosen, edge=trial.number in result.frontier),
    )


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else formatting.MISSING


def _measured(score: Score | None) -> tuple[str, str]:
    if score is None:
        return formatting.MISSING, formatting.MISSING
    return (
        formatting.percent(score.accuracy, score.n),
        formatting.percent_range(score.interval, score.n),
    )


def _word(trial: Trial, *, chosen: bool, edge: bool) -> str:
    if chosen:
        return "taken"
    if trial.state == "failed":
        return f"failed: {formatting.short(trial.error, 60)}"
    return "frontier" if edge else "" if trial.state == "raced to the end" else trial.state


def student_figure(result: SearchResult) -> Figure | None:
    """Held-out accuracy against size of the trials that came furthest; None where all are of one
    size.
    """
    known = {each.name: each for each in result.candidates}
    reached = max((each.last.epochs for each in result.trials if each.last), default=0)
    points = [
        Point(
            f"{trial.number} {trial.parameters['student']}",
            known[str(trial.parameters["student"])].parameters,
            trial.last.accuracy,
            trial.last.interval,
            distilled=True,
        )
        for trial in result.trials
        if trial.last is not None and trial.last.epochs == reached
    ]
    if len({each.cost for each in points}) < 2:
        return None
    n = next(trial.last.n for trial in result.trials if trial.last)
    return frontier(
        points,
        name="search",
        title=f"{result.data}: students that were raced to the end",
        axis="parameters",
        basis=(
            f"{result.data}, n = {formatting.plural(n, 'held-out image')}, one seed, epoch "
            f"{reached}; bars are Wilson's 95 % intervals."
        ),
        accuracy="held-out accuracy",
    )


def write_search(result: SearchResult, folder: Path) -> None:
    """Writes search.md, and search.svg where students differ in size.

    Raises:
        NotWritable, DiskFull: the folder takes no files.
    """
    figure = student_figure(result)
    if figure is not None:
        write_page(folder / PLOT, figure.svg)
    taken = next(each for each in result.trials if each.number == result.chosen)
    parts = [
        f"# {escape(student_headline(result))}",
        *([f"![accuracy against size]({PLOT})"] if figure is not None else []),
        _table(STUDENT_HEADINGS, student_rows(result)),
        (
            "Size: parameters. ms: median time of one image, eager, on this machine. temp: "
            "temperature. held out: accuracy on held-out images, one seed, with its 95 % interval. "
            f"Trials were compared after "
            f"{formatting.listed([str(each) for each in result.rungs], 9)} epochs; one that was "
            f"left behind is a stopped run, which kd resume trains on. Trial {taken.number} "
            f"was trained to its end: {escape(result.run)}, "
            f"{formatting.percent(result.test_accuracy, result.test_n)} of "
            f"{formatting.plural(result.test_n, 'test image')}, which nothing was chosen on."
        ),
        f"To repeat it: `{escape(result.again)}`",
        *([_left_out(result)] if result.left_out else []),
        *(f"> Note: {escape(note)}" for note in result.notes),
        f"Made by kd {__version__}; the search took {formatting.duration(result.seconds)}.",
    ]
    write_page(folder / PAGE, "\n\n".join(parts) + "\n")


def student_headline(result: SearchResult) -> str:
    """What came out, in a sentence."""
    taken = next(each for each in result.trials if each.number == result.chosen)
    student = taken.parameters["student"]
    if result.met:
        return f"{student} by {taken.parameters['method']} meets the budget"
    assert taken.last is not None
    near = formatting.percent(taken.last.accuracy, taken.last.n)
    return f"no trial meets the budget; the nearest is {student} with {near} of held-out images"


def _left_out(result: SearchResult) -> str:
    told = [
        f"{each.name} ({formatting.count(each.parameters)} parameters"
        + (f", {each.latency_ms:.3g} ms)" if each.latency_ms is not None else ")")
        for each in result.left_out
    ]
    return f"Not tried: {escape(formatting.listed(told, 20))}."


# ---- a teacher -----------------------------------------------------------------------------------


def teacher_rows(result: FoundTeacher) -> list[Row]:
    """A row for each checkpoint that was probed, the best student first."""
    every = [(trial, score) for trial in result.trials for score in trial.scores]
    every.sort(key=lambda item: (-item[1].accuracy, item[0].number, item[1].epochs))
    return [_teacher_row(trial, score, result) for trial, score in every]


def _teacher_row(trial: Trial, score: Score, result: FoundTeacher) -> Row:
    place = (trial.number, score.epochs)
    words = [
        word
        for word, here in (
            ("taken", (result.chosen, result.epochs)),
            ("most accurate", result.most_accurate),
            ("most entropy", result.most_entropy),
        )
        if place == here
    ]
    accuracy, interval = _measured(score)
    return (
        str(trial.number),
        _number(trial.parameters.get("batch_size")),
        _number(trial.parameters.get("smoothing")),
        _number(trial.parameters.get("temperature")),
        str(score.epochs),
        formatting.percent(score.teacher_accuracy, score.n),
        formatting.number(score.teacher_entropy),
        accuracy,
        interval,
        formatting.duration(score.seconds),
        ", ".join(words),
    )


def write_found_teacher(result: FoundTeacher, folder: Path) -> None:
    """Writes find-teacher.md.

    Raises:
        NotWritable, DiskFull: the folder takes no files.
    """
    failed = [each for each in result.trials if each.state == "failed"]
    parts = [
        f"# The teacher to use on {escape(result.data)}: {escape(result.checkpoint)}",
        _table(TEACHER_HEADINGS, teacher_rows(result)),
        (
            f"Each row is a checkpoint of {escape(result.network)}: batch size and label smoothing "
            "of its training, its own accuracy on held-out images (teacher), the mean entropy of "
            "its answers to them in nats at temperature 1, and the accuracy on them of a "
            f"{escape(result.student)} that was distilled from it for "
            f"{formatting.plural(result.probe_epochs, 'epoch')} at that temperature (student, with "
            "its 95 % interval), one seed. The test images were not used."
        ),
        *(f"> Note: trial {each.number} failed: {escape(each.error)}" for each in failed),
        *(f"> Note: {escape(note)}" for note in result.notes),
        f"To distil from it: `{escape(result.again)}`",
        f"Made by kd {__version__}; the search took {formatting.duration(result.seconds)}.",
    ]
    write_page(folder / TEACHER_PAGE, "\n\n".join(parts) + "\n")


def _table(headings: Row, rows: Sequence[Row]) -> str:
    lines = [headings, tuple(":--" for _ in headings), *rows]
    return "\n".join("| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines)
