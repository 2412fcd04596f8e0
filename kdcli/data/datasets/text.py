"""Text, word by word: Penn Treebank, WikiText-2, files of your own, or the language reference that
comes with Python.

Nothing is downloaded. Penn Treebank and WikiText-2 are read from their usual files in the folder
data.path: ptb.train.txt, ptb.valid.txt and ptb.test.txt; wiki.train.tokens and so on; train.txt,
valid.txt and test.txt likewise. They come as words between spaces, and every line ends with <eos>
(which is how published perplexities count).

Any other file, or folder of files in the order of their names, is read as running text: words,
numbers and punctuation marks are tokens, and a line that is not empty ends with <eos>. The last
test_fraction of it is tested on; data.val_fraction holds out what lies before. Text is UTF-8.

The vocabulary is made of the training text: <unk>, <eos> and the commonest words, as many as
`vocabulary` allows. Every other word is read as <unk>. A checkpoint carries it. Or tokens are those
of a tokenizer of transformers (data.tokenizer; kdcli[hf]), on the text as it stands.

python-reference needs no file: the language reference of Python (pydoc_data.topics), 465 kB of
English. It differs between versions of Python; a run keeps its fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from kdcli.core.options import Options as DataOptions
from kdcli.core.tokenizer import numbers_of, read_tokenizer
from kdcli.data.text import Text
from kdcli.data.text_files import PARTS, check_size, embedded_topics, of_this_python, text_of
from kdcli.data.tokens import commonest, words_of
from kdcli.errors import BadData, NotFound, UsageError
from kdcli.surroundings import at_home

DATASETS: dict[str, dict[str, Any]] = {
    "text": {
        "summary": "a file or a folder of text of your own, word by word",
        "task": "language-modelling",
        "classes": None,
        "shape": [1, 1, 1],
        "train": None,
        "test": None,
        "megabytes": None,
        "download": False,
        "val": True,
        "augment": {},
    },
    "penn-treebank": {
        "summary": "Penn Treebank for word-level language modelling, from its usual files",
        "task": "language-modelling",
        "classes": None,
        "shape": [1, 1, 1],
        "train": None,
        "test": None,
        "megabytes": None,
        "download": False,
        "val": True,
        "augment": {},
    },
    "wikitext-2": {
        "summary": "WikiText-2, from its usual files",
        "task": "language-modelling",
        "classes": None,
        "shape": [1, 1, 1],
        "train": None,
        "test": None,
        "megabytes": None,
        "download": False,
        "val": True,
        "augment": {},
    },
    "python-reference": {
        "summary": "the language reference that comes with Python: no download",
        "task": "language-modelling",
        "classes": None,
        "shape": [1, 1, 1],
        "train": None,
        "test": None,
        "megabytes": 0,
        "download": False,
        "augment": {},
    },
}

UNKNOWN, END = "<unk>", "<eos>"
T = TypeVar("T")
_USUAL = re.compile(r"(?:[\w.-]+\.)?(train|valid|val|test)(?:\.(?:txt|tokens|raw))?", re.ASCII)


class Options(DataOptions):
    """[data] of a text."""

    path: str | None = Field(
        None, description="The file, or the folder of the files; python-reference has none."
    )
    tokens: Literal["auto", "words", "spaces"] = Field(
        "auto",
        description=(
            "What is a token: words and punctuation marks, or what stands between spaces; auto: "
            "spaces in Penn Treebank's and WikiText's files, words elsewhere."
        ),
    )
    tokenizer: str | None = Field(
        None,
        description=(
            "Folder of a network of transformers, or a tokenizer.json, whose tokens these are (hf)."
        ),
    )
    lower: bool = Field(default=False, description="Read capital letters as small ones.")
    vocabulary: int = Field(
        10_000,
        ge=3,
        le=100_000,
        description="Words at most, <unk> and <eos> counted: the commonest of the training text.",
    )
    window: int = Field(
        70, ge=1, le=4096, description="Tokens that are read before the weights change (bptt)."
    )
    random_windows: bool = Field(
        default=False,
        description=(
            "Draw each window's length around that, and scale its learning rate by it, as AWD-LSTM "
            "does."
        ),
    )
    streams: int = Field(
        1,
        ge=1,
        le=4096,
        description=(
            "Parts that held-out and test text are cut into and read side by side; 1 reads them "
            "from beginning to end."
        ),
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the text that is tested on, its end; 0.1 unless given.",
    )
    max_gb: float = Field(
        1.0, gt=0, description="Refuse to read a text of more GB than this: a bound, no target."
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """A text's parts as lines, and what is a token of them."""

    parts: Mapping[str, Sequence[str]]
    spaces: bool


def load(name: str, *, options: Options, root: Path) -> Text:  # noqa: ARG001  all families share this signature
    """The text that the options name.

    Raises:
        NotFound: it is not there. UsageError: an option says nothing here. BadData: a part has no
            token, or a file is not UTF-8 or too large.
    """
    found = _embedded(options) if name == "python-reference" else _from_disk(name, options)
    if options.tokenizer is not None:
        return _of_tokenizer(found, name, options, options.tokenizer)
    tokens = {
        part: [*_tokens(lines, spaces=found.spaces, lower=options.lower)]
        for part, lines in found.parts.items()
    }
    if "test" not in tokens:
        tokens = _cut(tokens["train"], options.test_fraction or 0.1)
    _check_tokens(tokens, options.path or name)
    known = commonest(tokens["train"], options.vocabulary, (UNKNOWN, END))
    numbers = {word: number for number, word in enumerate(known)}
    unknown = numbers[UNKNOWN]
    coded = {
        part: torch.tensor([numbers.get(word, unknown) for word in found])
        for part, found in tokens.items()
    }
    return _made(coded, known, options, _said(coded, len(known), unknown, name))


def _made(coded: Mapping[str, Tensor], words: tuple[str, ...], options: Options, note: str) -> Text:
    return Text(
        coded["train"],
        coded.get("val", torch.empty(0, dtype=torch.int64)),
        coded["test"],
        words,
        options.window,
        options.random_windows,
        options.streams,
        (note,),
    )


def _of_tokenizer(found: _Read, name: str, options: Options, tokenizer: str) -> Text:
    """The text by somebody else's tokens, as it stands: lines end as the tokenizer has it."""
    if options.lower or options.tokens != "auto":
        raise UsageError(
            "data.tokenizer says what a token is, and so do data.lower and data.tokens",
            hint="leave these two out",
        )
    own = read_tokenizer(tokenizer)
    tokens = {
        part: numbers_of(own.content, "\n".join(lines) + "\n" if any(lines) else "")
        for part, lines in found.parts.items()
    }
    if "test" not in tokens:
        tokens = _cut(tokens["train"], options.test_fraction or 0.1)
    _check_tokens(tokens, options.path or name)
    coded = {part: torch.tensor(numbers) for part, numbers in tokens.items()}
    note = (
        f"{len(own.words):,} tokens of the tokenizer of {tokenizer}: perplexity is by these, and "
        "says nothing beside that of words"
    )
    return _made(coded, own.words, options, note)


def _check_tokens(tokens: Mapping[str, Sequence[Any]], called: str) -> None:
    for part, found in tokens.items():
        if not found:
            raise BadData(
                f"the {part} text of {called} has no token",
                hint="a file with text in it, or another data.test_fraction",
            )


def _said(coded: Mapping[str, Tensor], words: int, unknown: int, name: str) -> str:
    test = coded["test"]
    share = 100 * float((test == unknown).double().mean())
    return (
        f"vocabulary of {words:,} words from the training text; {share:.1f} % of the test text "
        f"is {UNKNOWN}{of_this_python() if name == 'python-reference' else ''}"
    )


def _tokens(lines: Sequence[str], *, spaces: bool, lower: bool) -> Iterator[str]:
    for line in lines:
        text = line.lower() if lower else line
        if spaces:  # an empty line is a sentence too: published perplexities count its <eos>
            yield from text.split()
            yield END
        elif found := words_of(text, lower=False):
            yield from found
            yield END


def _cut(words: list[T], fraction: float) -> dict[str, list[T]]:
    tested = round(fraction * len(words))
    return {"train": words[: len(words) - tested], "test": words[len(words) - tested :]}


# ---- where it is from ----------------------------------------------------------------------------


def _embedded(options: Options) -> _Read:
    if options.path is not None:
        raise UsageError(
            "python-reference comes with Python and is read from no data.path",
            hint="-d text -s data.path=PATH reads your own",
        )
    topics = embedded_topics("-d text -s data.path=PATH reads your own")
    lines = chain.from_iterable(topics[name].splitlines() for name in sorted(topics))
    return _Read({"train": [*lines]}, spaces=options.tokens == "spaces")


def _from_disk(name: str, options: Options) -> _Read:
    if options.path is None:
        raise UsageError(f"{name} does not say where it is", hint="-s data.path=PATH")
    top = at_home(options.path)
    if not top.exists():
        raise NotFound(f"no file or folder at {top}", hint="-s data.path=PATH of the text")
    files = [top] if top.is_file() else _files(top)
    if not files:
        raise BadData(f"{top} has no file in it", hint="text files, in UTF-8")
    parts = _usual_parts(files) if top.is_dir() else {}
    if not parts and name in {"penn-treebank", "wikitext-2"}:
        raise NotFound(
            f"{top} holds none of the usual files of {name}",
            hint="ptb.train.txt, ptb.valid.txt, ptb.test.txt"
            if name == "penn-treebank"
            else "wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens",
        )
    if parts and options.test_fraction is not None:
        raise UsageError(
            f"data.test_fraction is to cut a test part off, and {parts['test'].name} is one",
            hint="leave data.test_fraction out",
        )
    spaces = options.tokens == "spaces" or (options.tokens == "auto" and bool(parts))
    if parts:
        check_size(parts.values(), options.max_gb, top)
        return _Read({part: _lines(file) for part, file in parts.items()}, spaces)
    check_size(files, options.max_gb, top)
    return _Read({"train": [*chain.from_iterable(_lines(file) for file in files)]}, spaces)


def _files(top: Path) -> list[Path]:
    """The files in a folder and below it, in the order of their paths; hidden ones are left out."""
    return sorted(
        path
        for path in top.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(top).parts)
    )


def _usual_parts(files: Sequence[Path]) -> dict[str, Path]:
    """The files of a text that comes in parts, by part; none where it does not.

    Raises:
        NotFound: one of training and test is there, and not the other.
    """
    named: dict[str, Path] = {}
    for file in files:
        if found := _USUAL.fullmatch(file.name):
            part = next(part for part, names in PARTS.items() if found[1] in names)
            named.setdefault(part, file)
    if not {"train", "test"} & named.keys():
        return {}
    if missing := sorted({"train", "test"} - named.keys()):
        there = next(iter(named.values()))
        raise NotFound(
            f"{there.name} is in {there.parent}, and no {missing[0]} file beside it",
            hint=f"{there.name.replace(_named(there), missing[0])} beside it, or one file alone",
        )
    return named


def _named(file: Path) -> str:
    found = _USUAL.fullmatch(file.name)
    assert found is not None
    return found[1]


def _lines(file: Path) -> list[str]:
    """The lines of a file.

    Raises:
        BadData: it cannot be read, or is not UTF-8; says which byte.
    """
    return text_of(file).splitlines()
