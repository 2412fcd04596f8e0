"""How a text becomes the numbers that a network reads: kept by the checkpoint, so that sentences
can be put to it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

PADDING, UNKNOWN = "<pad>", "<unk>"  # tokens 0 and 1
BEHIND = 2  # what the number of a token of transformers is more here


def of_tokenizer(words: tuple[str, ...], content: str, length: int) -> Vocabulary:
    """The vocabulary of a tokenizer of transformers: its own words, one of which may be called as
    the two before them are.
    """
    own = (f"{word} (its own)" if word in {PADDING, UNKNOWN} else word for word in words)
    return Vocabulary(
        (PADDING, UNKNOWN, *own), "tokenizer", lower=False, length=length, tokenizer=content
    )


@dataclass(frozen=True)
class Vocabulary:
    """What tokens are, and their numbers.

    tokens: by number; 0 is what fills a short text up, 1 whatever is not among them. kind: words
    and punctuation marks as they stand, or pieces of words (WordPiece: the longest pieces that are
    among the tokens, those within a word written ##piece), or what a tokenizer of transformers
    makes, whose numbers begin behind these two. lower: whether capital letters are read as small
    ones. length: of a text, in tokens; what is longer is cut. tokenizer: the content of that one's
    tokenizer.json.

    Raises:
        ValueError: the first two are not those, one stands twice, or the length is none.
    """

    tokens: tuple[str, ...]
    kind: Literal["words", "pieces", "tokenizer"]
    lower: bool
    length: int
    tokenizer: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.tokens[:2] != (PADDING, UNKNOWN) or len(set(self.tokens)) < len(self.tokens):
            raise ValueError(f"tokens begin with {PADDING} and {UNKNOWN}, and stand once each")
        if self.length < 1:
            raise ValueError("a text has one token or more")
        if (self.kind == "tokenizer") != (self.tokenizer is not None):
            raise ValueError("a tokenizer belongs to tokens that it makes, and to no others")

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 over all of it."""
        own = () if self.tokenizer is None else (self.tokenizer,)
        said = "\0".join((self.kind, str(self.lower), str(self.length), *own, *self.tokens))
        return hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()

    def differs(self, other: Vocabulary) -> str:
        """What tells another one from it, as in "it has 5 tokens, and here there are 6"; "" if
        nothing does.
        """
        if len(self.tokens) != len(other.tokens):
            return f"it has {len(other.tokens):,} tokens, and here there are {len(self.tokens):,}"
        pairs = enumerate(zip(self.tokens, other.tokens, strict=True))
        for place, (own, theirs) in pairs:
            if own != theirs:
                return f"token {place} is {theirs!r} to it and {own!r} here"
        for name, own_value, their_value in (
            ("tokens are", self.kind, other.kind),
            ("data.lower is", self.lower, other.lower),
            ("data.length is", self.length, other.length),
        ):
            if own_value != their_value:
                return f"{name} {their_value} to it and {own_value} here"
        return "" if self.tokenizer == other.tokenizer else "its tokenizer cuts texts otherwise"
