"""Texts that a user gives to a network that sorts them into classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from kdcli.data.datasets.labelled_text import ENDINGS, Options, read_rows
from kdcli.data.text_files import check_size, text_of
from kdcli.errors import BadData, NotFound

NAMED = 60  # characters of a text that stands for itself in messages
CUT = "cut at {} tokens, as long as the network reads"
STRANGE = "none of its words is in the network's vocabulary"
_LINES = ".txt"


def find_texts(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and texts: what is no file stands for itself; of a .jsonl, .csv or .tsv file its column
    of texts is read, and of any other every line that is not empty.

    Raises:
        NotFound: it is called as a file is, and there is none, or it is a folder. BadData: it is
            empty, not UTF-8, or no table with a text in it.
    """
    found: list[tuple[str, str]] = []
    for each in given:
        before = len(found)
        found += _texts_of(each)
        if len(found) == before:
            raise BadData(
                f"{each or 'the text given'!r} has no text in it",
                hint="a sentence, or a file of texts",
            )
    return tuple(found)


def _texts_of(given: str) -> Iterator[tuple[str, str]]:
    if os.path.isdir(given):  # noqa: PTH112  a text may be too long for a path
        raise NotFound(f"{given} is a folder", hint="name the files of texts in it")
    if not os.path.isfile(given):  # noqa: PTH113  as above
        if given.lower().endswith((_LINES, *ENDINGS)) and len(given.split()) == 1:
            raise NotFound(f"no such file: {given}", hint="a text in quotes, or a file of texts")
        if given.strip():
            yield given, given
        return
    file = Path(given)
    check_size([file], Options().max_gb, file)
    if file.suffix.lower() in ENDINGS:
        for row in read_rows(file, Options(), labelled=False):
            yield row.where, row.text
        return
    for number, line in enumerate(text_of(file).splitlines(), 1):
        if line.strip():
            yield f"{file}, line {number}", line


def remark_on(tokens: Tensor, count: int, length: int) -> str:
    """What is to be said of a text: that it was cut, or that nothing of it is known; "" if nothing.

    Args:
        tokens: [L]. count: of its tokens before it was cut.

    """
    if count > length:
        return CUT.format(length)
    return STRANGE if bool((tokens <= 1).all()) else ""
