"""Texts with a class each: JSON lines or CSV of your own, movie reviews, or sentences of the
language reference that comes with Python.

A file of JSON lines has an object a line, a CSV file (or one with tabs, .tsv) a first line that
names its columns. The text and its class are found by their usual names (text, sentence, review or
content; label, class, sentiment or category), or named by data.text and data.label. A folder has
train.jsonl, test.jsonl and perhaps valid.jsonl (or .csv, .tsv); of a single file a share is tested
on, drawn by class (data.test_fraction). Files are UTF-8. A training text without a label (null, or
an empty cell) is answered by the teacher alone.

rotten-tomatoes and imdb are read from movie-reviews/NAME in the folder of the datasets, where
train.jsonl, valid.jsonl and test.jsonl have a text and a label of 0 or 1; nothing is downloaded.

python-topics needs no file: sentences of six topics of Python's language reference
(pydoc_data.topics), and the question which topic each is from. Every fifth paragraph is tested on.
It differs between versions of Python; a run keeps its fingerprint.

Tokens are words and punctuation marks, or pieces of words that are learnt from the training text,
or those of a tokenizer of transformers (data.tokenizer), with the tokens that it puts around a
text; data.lower and data.vocabulary then say nothing (kdcli[hf]). A checkpoint carries them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from kdcli.core import random
from kdcli.core.options import Options as DataOptions
from kdcli.core.task import TEXT_CLASSIFICATION
from kdcli.core.tokenizer import read_tokenizer
from kdcli.core.types import UNLABELLED
from kdcli.data.source import ImageArrays
from kdcli.data.split import sample_by_class
from kdcli.data.text_files import PARTS, check_size, embedded_topics, of_this_python, text_of
from kdcli.data.tokens import encode, make_vocabulary
from kdcli.errors import BadData, NotFound, UsageError
from kdcli.files import parse_json
from kdcli.results.vocabulary import BEHIND, Vocabulary, of_tokenizer
from kdcli.surroundings import at_home
from kdcli.typed import strict

DATASETS: dict[str, dict[str, Any]] = {
    "labelled-text": {
        "summary": "your own texts with a class each, as JSON lines or CSV",
        "task": "text-classification",
        "classes": None,
        "shape": None,
        "train": None,
        "test": None,
        "megabytes": None,
        "download": False,
        "val": True,
        "augment": {},
    },
    "rotten-tomatoes": {
        "summary": "sentences of movie reviews, negative or positive",
        "task": "text-classification",
        "classes": 2,
        "shape": None,
        "train": None,
        "test": None,
        "megabytes": 1.2,
        "download": False,
        "places": ["movie-reviews/rotten-tomatoes"],
        "val": True,
        "augment": {},
    },
    "imdb": {
        "summary": "whole movie reviews, negative or positive",
        "task": "text-classification",
        "classes": 2,
        "shape": None,
        "train": None,
        "test": None,
        "megabytes": 34,
        "download": False,
        "places": ["movie-reviews/imdb"],
        "val": True,
        "augment": {},
    },
    "python-topics": {
        "summary": "sentences of six topics of Python's language reference: no download",
        "task": "text-classification",
        "classes": 6,
        "shape": None,
        "train": None,
        "test": None,
        "megabytes": 0,
        "download": False,
        "augment": {},
    },
}

TOPICS = ("compound", "debugger", "formatstrings", "string-methods", "types", "typesmapping")
_REVIEWS = {"rotten-tomatoes", "imdb"}
_SHORTEST = 6  # words of a sentence
_TEXT = ("text", "sentence", "review", "content")
_LABEL = ("label", "class", "sentiment", "category")
ENDINGS = (".jsonl", ".csv", ".tsv")
_MOST_CLASSES = 10_000
_LONGEST_NAME = 200


class Options(DataOptions):
    """[data] of texts with classes."""

    path: str | None = Field(
        None, description="The file or the folder of labelled-text; the others have their own."
    )
    text: str | None = Field(
        None, description="Column of the texts; found by its name (text, sentence) unless given."
    )
    label: str | None = Field(
        None, description="Column of the classes; found by its name (label, class) unless given."
    )
    tokens: Literal["words", "pieces"] = Field(
        "words",
        description=(
            "Words and punctuation marks, or pieces of words learnt from the training text (hf)."
        ),
    )
    tokenizer: str | None = Field(
        None,
        description=(
            "Folder of a network of transformers, or a tokenizer.json, whose tokens these are (hf)."
        ),
    )
    lower: bool = Field(default=True, description="Read capital letters as small ones.")
    vocabulary: int = Field(
        10_000,
        ge=3,
        le=100_000,
        description="Tokens at most, <pad> and <unk> counted: of the training text alone.",
    )
    length: int = Field(
        128, ge=1, le=4096, description="Tokens of a text at most; a longer one is cut."
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of a single file that is tested on, by class; 0.2 unless given.",
    )
    test_seed: int | None = Field(
        None, ge=0, description="Which share that is: each number draws another one."
    )
    max_gb: float = Field(
        1.0, gt=0, description="Refuse to read texts of more GB than this: a bound, no target."
    )


class Row(NamedTuple):
    """A text, its class ("" for none), and where it stands, for messages."""

    text: str
    label: str
    where: str


def load(name: str, *, options: Options, root: Path) -> ImageArrays:
    """The texts that the options name, as tokens.

    Raises:
        NotFound: they are not there. UsageError: an option says nothing here. BadData: a file is
            not UTF-8, a row has no text or a class that no training text has, or one is too large.
    """
    if name != "labelled-text" and options.path is not None:
        raise UsageError(
            f"{name} is read from no data.path",
            hint="-d labelled-text -s data.path=PATH reads your own",
        )
    if name == "python-topics":
        _check_not_drawn(options, f"{name} has one")
    parts = dict(_topics()) if name == "python-topics" else dict(_from_disk(name, options, root))
    if not any(row.label for row in parts["train"]):
        raise BadData(f"no training text of {options.path or name} has a label", hint="label some")
    if "test" not in parts:
        parts = _drawn(parts["train"], options, name)
    labels = _classes(parts["train"])
    number = {label: place for place, label in enumerate(labels)}
    y = {part: _numbered(rows, number, part) for part, rows in parts.items()}
    named = ("negative", "positive") if name in _REVIEWS and labels == ("0", "1") else labels
    vocabulary = _vocabulary(options, [row.text for row in parts["train"]])
    x, counts = {}, {}
    for part, rows in parts.items():
        found, counts[part] = encode(vocabulary, [row.text for row in rows])
        x[part] = found[:, None, None]
        _check_tokens(rows, counts[part])
    held = len(parts.get("val", ()))
    return ImageArrays(
        torch.cat([x["train"], *([x["val"]] if held else [])]),
        torch.cat([y["train"], *([y["val"]] if held else [])]),
        x["test"],
        y["test"],
        named,
        (0.0,),
        (1.0,),
        held=held,
        notes=(_said(vocabulary.tokens, x["test"], counts["test"], options, name),),
        task=TEXT_CLASSIFICATION,
        vocabulary=vocabulary,
    )


def _vocabulary(options: Options, texts: Sequence[str]) -> Vocabulary:
    if options.tokenizer is None:
        return make_vocabulary(
            texts,
            options.tokens,
            most=options.vocabulary,
            lower=options.lower,
            length=options.length,
        )
    if options.tokens != "words":
        raise UsageError(
            "data.tokens and data.tokenizer both say what a token is", hint="leave one of them out"
        )
    found = read_tokenizer(options.tokenizer)
    return of_tokenizer(found.words, found.content, options.length)


def _said(tokens: Sequence[str], x: Tensor, counts: Tensor, options: Options, name: str) -> str:
    length, tokenizer = options.length, options.tokenizer
    unknown = 100 * float((x == 1).sum()) / max(int((x > 0).sum()), 1)
    cut = int((counts > length).sum())
    longer = f"; {cut:,} of {len(counts):,} test texts are cut at {length} tokens" if cut else ""
    if tokenizer is not None:
        return f"{len(tokens) - BEHIND:,} tokens of the tokenizer of {tokenizer}{longer}"
    return (
        f"vocabulary of {len(tokens):,} tokens from the training text; {unknown:.1f} % of the test "
        f"text is <unk>{longer}{of_this_python() if name == 'python-topics' else ''}"
    )


def _check_tokens(rows: Sequence[Row], counts: Tensor) -> None:
    if len(empty := (counts == 0).nonzero().flatten()):
        raise BadData(
            f"{rows[int(empty[0])].where}: the text has no token",
            hint="mend the row, or remove it",
        )


def _classes(rows: Sequence[Row]) -> tuple[str, ...]:
    """The classes of a training text; numbers in their order, names in that of the alphabet."""
    found = {row.label for row in rows if row.label}
    if len(found) < 2:
        only = f"the class {next(iter(found))!r} alone" if found else "no class"
        raise BadData(f"the training text has {only}", hint="two classes or more")
    if len(found) > _MOST_CLASSES:
        raise BadData(
            f"the training text has {len(found):,} classes", hint="is data.label the right column?"
        )
    numbers = all(re.fullmatch(r"\d{1,9}", label, re.ASCII) for label in found)
    return tuple(sorted(found, key=int if numbers else None))


def _numbered(rows: Sequence[Row], number: Mapping[str, int], part: str) -> Tensor:
    """Classes as numbers [n]; only training texts may lack one."""
    for row in rows:
        if not row.label and part != "train":
            raise BadData(
                f"{row.where}: the text has no label", hint="what is measured on needs labels"
            )
        if row.label and row.label not in number:
            raise BadData(
                f"{row.where}: {row.label!r} is not among the classes of the training text "
                f"({', '.join([*number][:5])}{', ...' if len(number) > 5 else ''})",
                hint="label it as one of them, or add training texts of it",
            )
    return torch.tensor([number.get(row.label, UNLABELLED) for row in rows], dtype=torch.int64)


def _drawn(rows: Sequence[Row], options: Options, name: str) -> dict[str, Sequence[Row]]:
    """Rows as a part to train and one to test on, drawn by class among those with a label."""
    fraction = options.test_fraction or 0.2
    number = {label: place for place, label in enumerate(_classes(rows))}
    labelled = [row for row in rows if row.label]
    y = torch.tensor([number[row.label] for row in labelled])
    stream = random.key(options.test_seed or 0, "text test")
    chosen = sample_by_class(y, round(fraction * len(y)), stream).tolist()
    tested = [row for row, test in zip(labelled, chosen, strict=True) if test]
    if not tested:
        raise UsageError(
            f"data.test_fraction = {fraction:g} of {len(labelled):,} labelled texts of {name} "
            "tests on none",
            hint="a larger share",
        )
    trained = [row for row, test in zip(labelled, chosen, strict=True) if not test]
    return {"train": [*trained, *(row for row in rows if not row.label)], "test": tested}


# ---- where they are from -------------------------------------------------------------------------


def _topics() -> Iterator[tuple[str, list[Row]]]:
    """Sentences of Python's topics: every fifth paragraph of each is tested on, and a sentence that
    stands more than once is left out of all.
    """
    topics = embedded_topics("-d labelled-text -s data.path=PATH reads your own")
    found: dict[str, list[tuple[str, bool]]] = {}
    for topic in TOPICS:
        paragraphs = re.split(r"\n\s*\n", topics.get(topic, ""))
        for number, paragraph in enumerate(paragraphs):
            text = " ".join(paragraph.split())
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"*])", text):
                if len(re.findall(r"[A-Za-z]{2,}", sentence)) >= _SHORTEST:
                    found.setdefault(sentence, []).append((topic, number % 5 == 4))
    once = {sentence: said[0] for sentence, said in found.items() if len(said) == 1}
    for part in ("train", "test"):
        yield (
            part,
            [
                Row(sentence, topic, f"python-topics, {topic}")
                for sentence, (topic, test) in once.items()
                if test == (part == "test")
            ],
        )


def _from_disk(name: str, options: Options, root: Path) -> Iterator[tuple[str, Sequence[Row]]]:
    if name in _REVIEWS:
        top = root / "movie-reviews" / name
        hint = f"{name} is read from train.jsonl, valid.jsonl and test.jsonl there (kd datasets)"
    elif options.path is None:
        raise UsageError(f"{name} does not say where it is", hint="-s data.path=PATH")
    else:
        top, hint = at_home(options.path), "-s data.path=PATH of the texts"
    if not top.exists():
        raise NotFound(f"no file or folder at {top}", hint=hint)
    files = {"train": top} if top.is_file() else _files(top)
    if "test" in files:
        _check_not_drawn(options, f"{top} has {files['test'].name}")
    check_size(files.values(), options.max_gb, top)
    for part, file in files.items():
        rows = list(read_rows(file, options))
        if not rows:
            raise BadData(f"{file} has no text", hint="a row for each text")
        yield part, rows


def _check_not_drawn(options: Options, there: str) -> None:
    """Refuses what is said about drawing a test part where there is one."""
    for key in ("test_fraction", "test_seed"):
        if getattr(options, key) is not None:
            raise UsageError(
                f"data.{key} is to draw a test part, and {there}", hint=f"leave data.{key} out"
            )


def _files(top: Path) -> dict[str, Path]:
    """The files of a folder, by part."""
    found = {}
    for part, names in PARTS.items():
        there = [
            top / f"{name}{ending}"
            for name in names
            for ending in ENDINGS
            if (top / f"{name}{ending}").is_file()
        ]
        if len(there) > 1:
            raise BadData(f"{top} has {there[0].name} and {there[1].name}", hint="keep one of them")
        if there:
            found[part] = there[0]
    if missing := {"train", "test"} - found.keys():
        raise NotFound(
            f"{top} holds no {' and no '.join(sorted(missing, reverse=True))} file",
            hint="train.jsonl and test.jsonl (.csv, .tsv), or give one file alone",
        )
    return found


def read_rows(file: Path, options: Options, *, labelled: bool = True) -> Iterator[Row]:
    """The texts of a file of JSON lines, or of a table.

    Args:
        labelled: whether they need a column of classes; otherwise none is read.

    Raises:
        BadData: it cannot be read, or a row has no text or no label that is one; says which.
    """
    content = text_of(file)
    if file.suffix.lower() in {".csv", ".tsv"}:
        yield from _of_table(file, content, options, labelled=labelled)
        return
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            table = strict(dict[str, Any], parse_json(line))
        except ValueError as error:
            raise BadData(
                f"{where} is no JSON object: {error}",
                hint='an object a line, {"text": "...", "label": "..."}',
            ) from error
        text, label = (
            table.get(_column([*table], asked, usual, what, where))
            if labelled or what == "text"
            else None
            for asked, usual, what in _columns(options)
        )
        if not isinstance(text, str) or not text.strip():
            raise BadData(f"{where}: the text is empty", hint="mend the row, or remove it")
        if not isinstance(label, str | int | None):
            raise BadData(f"{where}: the label is no text or whole number", hint="mend the row")
        yield Row(text, _name(label, where), where)


def _columns(options: Options) -> tuple[tuple[str | None, tuple[str, ...], str], ...]:
    return (options.text, _TEXT, "text"), (options.label, _LABEL, "label")


def _name(label: str | int | None, where: str) -> str:
    name = "" if label is None else str(label).strip()
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise BadData(
            f"{where}: the label is no name (it has {len(name):,} characters)",
            hint="is data.label the right column?",
        )
    return name


def _column(
    names: Sequence[str], asked: str | None, usual: Sequence[str], what: str, where: str
) -> str:
    """The column that is asked for, or that has a usual name."""
    wanted = (asked,) if asked is not None else usual
    found = next((name for name in wanted if name in names), None)
    if found is None:
        has = ", ".join(map(repr, names[:8])) or "nothing"
        raise BadData(
            f"{where}: there is no {' or '.join(map(repr, wanted))}",
            hint=f"it has {has}: data.{what} names the column",
        )
    return found


def _of_table(file: Path, content: str, options: Options, *, labelled: bool) -> Iterator[Row]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    reader = csv.reader(content.splitlines(keepends=True), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        text, label = (
            header.index(_column(header, asked, usual, what, f"{file}, line 1"))
            if labelled or what == "text"
            else -1
            for asked, usual, what in _columns(options)
        )
        for cells in reader:
            where = f"{file}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) <= max(text, label) or not cells[text].strip():
                raise BadData(f"{where}: the text is empty", hint="mend the row, or remove it")
            yield Row(cells[text], _name(cells[label] if labelled else None, where), where)
    except csv.Error as error:
        raise BadData(
            f"{file}, line {reader.line_num} cannot be read as a table: {error}",
            hint="save it as CSV, in UTF-8",
        ) from error
