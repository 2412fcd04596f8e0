"""Tokenizers of somebody else's: the tokenizer.json that the `tokenizers` package and transformers
write, read as data. Nothing of a folder runs, and nothing is fetched.

It takes the package, which comes with kdcli[hf].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcli.errors import BadData, KdError, NotFound, UsageError
from kdcli.files import given_by_the_user, is_file, is_folder, parse_json, read_bytes
from kdcli.surroundings import at_home
from kdcli.typed import strict

FILE, CONFIG = "tokenizer.json", "config.json"
MOST_BYTES = 64 * 2**20
_MOST_TOKENS = 1_000_000
_CHUNK = 1 << 20  # characters of a text that are cut at a time
LINE = ("\n", "Ċ", "<0x0A>")  # how tokenizers write the end of a line


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, and the words that its numbers stand for.

    content: of the file. words: by number; what is no token of it, up to the size that the config
    beside it says, is called <unused NUMBER>.
    """

    content: str = field(repr=False)
    words: tuple[str, ...] = field(repr=False)


def package() -> Any:
    """The package tokenizers.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise UsageError(
            "a tokenizer of transformers takes the package tokenizers, which is not installed",
            hint="pip install 'kdcli[hf]'",
        ) from error
    return tokenizers


def read_tokenizer(given: str | Path) -> Tokenizer:
    """The tokenizer of a folder, or of a tokenizer.json.

    Raises:
        NotFound: there is none. BadData: the file is none. UsageError: the package is missing.
    """
    top = at_home(given)
    path = top / FILE if is_folder(top) else top
    if not is_file(path):
        raise NotFound(
            f"{top} holds no {FILE}" if is_folder(top) else f"no such file or folder: {top}",
            hint="a fast tokenizer of transformers writes one: save_pretrained(FOLDER)",
        )
    with given_by_the_user():
        content = read_bytes(path, MOST_BYTES)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not UTF-8: byte {error.start} (counted from 0)") from error
    return Tokenizer(text, _words(text, path, _said_size(path.parent / CONFIG)))


def opened(content: str, called: str | Path = "the tokenizer") -> Any:
    """The package's tokenizer of a file's content, that neither cuts nor fills up.

    Raises:
        BadData: it is none. UsageError: the package is missing.
    """
    tokenizers = package()
    try:
        made = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # whatever the package says to what is no tokenizer
        first_line, _, _ = str(error).partition("\n")
        raise BadData(
            f"{called} is no tokenizer: {first_line[:120]}",
            hint="save_pretrained of a tokenizer of transformers writes tokenizer.json",
        ) from error
    made.no_truncation()
    made.no_padding()
    return made


def numbers_of(content: str, text: str) -> list[int]:
    """A whole text as numbers, without the tokens that a model would put around it; long ones are
    cut at the ends of lines, a million characters at a time.
    """
    made = opened(content)
    parts, held, size = [], [], 0
    for line in text.splitlines(keepends=True):
        held.append(line)
        size += len(line)
        if size >= _CHUNK:
            parts.append("".join(held))
            held, size = [], 0
    found: list[int] = []
    for part in (*parts, "".join(held)):
        if part:
            found += made.encode(part, add_special_tokens=False).ids
    return found


def _words(content: str, path: Path, least: int) -> tuple[str, ...]:
    table = opened(content, path).get_vocab(with_added_tokens=True)
    if not table:
        raise BadData(f"{path} is a tokenizer without a token", hint="another one")
    count = max(max(table.values()) + 1, least)
    if count > _MOST_TOKENS:
        raise BadData(
            f"{path} has {count:,} tokens, more than {_MOST_TOKENS:,}", hint="another one"
        )
    named = {number: token for token, number in table.items()}
    return tuple(named.get(number, f"<unused {number}>") for number in range(count))


def _said_size(config: Path) -> int:
    """The vocabulary of the network beside a tokenizer, which may be larger; 0 where none is."""
    if not is_file(config):
        return 0
    try:
        with given_by_the_user():
            table = strict(dict[str, Any], parse_json(read_bytes(config, MOST_BYTES)))
    except (ValueError, KdError):
        return 0
    said = table.get("vocab_size")
    return said if type(said) is int and 0 < said <= _MOST_TOKENS else 0
