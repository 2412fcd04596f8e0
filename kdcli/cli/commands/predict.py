"""`kd predict`: what a network says to picture files, or to texts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli import options as o
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import ErrorItem, Outcome
from kdcli.cli.text import columns
from kdcli.errors import BadData, Exit, UsageError, Where
from kdcli.files import check_writable, write_text

if TYPE_CHECKING:
    from kdcli.results.predictions import PredictResult

NAME = "predict"
EXAMPLES = """
kd predict runs/latest photos/ 'more/*.png' --top 3 --csv answers.csv
kd predict runs/reviews "a thoughtful , provocative film ."
kd predict runs/latest photo.jpg --json -q | jq -r '.data.predictions[0].top[0].label'
"""
NAMED = 60  # characters of a name, or of a text that stands for itself, in a line
COLUMNS = ("file", "rank", "label", "index", "probability")

Model = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run directory, a model.safetensors, or an .onnx file of kd export.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
Pictures = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE", help="Picture files, folders or patterns; or texts.", show_default=False
    ),
]
Top = Annotated[
    int,
    typer.Option("--top", help="Classes of each.", metavar="K", rich_help_panel=o.RUNNING),
]
Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        help="Write a table to this file: a line for each sample and class.",
        metavar="FILE",
        show_default=False,
        rich_help_panel=o.RUNNING,
    ),
]


def run(
    env: Environment,
    run: Model,
    file: Pictures,
    *,
    top: Top = 5,
    csv: Csv = None,
    device: o.EvalDevice = "auto",
    trust: o.Trust = False,
) -> Outcome:
    """Say what is on pictures, or in texts: the likeliest classes.

    A picture is read, resized and cut as those that the network was tested on. One that cannot be
    read is named, the others are answered, and the exit code is 1. A network of texts takes texts
    as they stand, and files: .jsonl, .csv and .tsv with a column of texts, others line by line.
    """
    from kdcli.results.weights_header import read_header

    if top < 1:
        raise UsageError(f"--top must be 1 or more, got {top}")
    if run.suffix.lower() != ".onnx":
        read_header(run)
    if csv is not None:
        check_writable(csv)
    from kdcli import jobs

    result = jobs.predict(run, file, top=top, device=device, trust=trust)
    for line in _lines(env, result):
        env.answer(line)
    for warning in result.warnings:
        env.report(f"  {warning}")
    if csv is not None:
        write_text(csv, table(result))
        env.report(f"  table    {csv}")
    for unread in result.unread:
        env.complain(("error: ", "bold red"), unread.message)
    return Outcome(
        result,
        warnings=result.warnings,
        errors=tuple(
            ErrorItem(BadData.code, unread.message, where=Where(file=unread.file))
            for unread in result.unread
        ),
        exit_code=Exit.FAILURE if result.unread else Exit.OK,
    )


def _lines(env: Environment, result: PredictResult) -> Iterator[str]:
    """One picture as a list of its classes, several as a table with a line for each."""
    if len(result.predictions) == 1 and not result.unread:
        [only] = result.predictions
        yield f"  {formatting.short(only.file, NAMED)}"
        yield from columns(
            [(guess.label, _percent(guess.probability)) for guess in only.top], "<>", indent=4
        )
        return
    rows = [
        (
            formatting.short(item.file, NAMED),
            *(f"{guess.label} {_percent(guess.probability)}" for guess in item.top),
        )
        for item in result.predictions
    ]
    if rows:
        yield from columns(rows, room=env.answer_width)


def _percent(probability: float) -> str:
    return formatting.percent(probability)


def table(result: PredictResult) -> str:
    """The table as CSV: COLUMNS, ranks and classes counted from 1 and 0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in result.predictions:
        for rank, guess in enumerate(item.top, 1):
            writer.writerow((item.file, rank, guess.label, guess.index, guess.probability))
    return text.getvalue()
