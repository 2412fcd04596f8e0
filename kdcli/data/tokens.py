"""Texts as numbers: words and punctuation marks, or pieces of words.

A vocabulary is made of the training text alone. Pieces are learnt by WordPiece (M. Schuster and
K. Nakajima, Japanese and Korean voice search, ICASSP 2012; J. Devlin et al., arXiv:1810.04805) with
the `tokenizers` package, which comes with kdcli[hf]; a vocabulary holds the pieces, and nothing
else of the package.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kdcli.core.tokenizer import opened
from kdcli.errors import UsageError
from kdcli.results.vocabulary import BEHIND, PADDING, UNKNOWN, Vocabulary

Kind = Literal["words", "pieces"]
LONGEST = 64  # characters of a word of a vocabulary
WORDS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_LONGEST_WORD = 100  # characters that pieces are looked for in; a longer word is unknown


def commonest(words: Iterable[str], most: int, first: tuple[str, ...]) -> tuple[str, ...]:
    """Some tokens and behind them the commonest words, `most` in all; of equally common ones the
    first in the alphabet.
    """
    counts = Counter(words)
    for token in first:
        counts.pop(token, None)
    usual = [word for word in counts if len(word) <= LONGEST and word.isprintable()]
    ranked = sorted(usual, key=lambda word: (-counts[word], word))
    return (*first, *ranked[: most - len(first)])


def words_of(text: str, *, lower: bool) -> list[str]:
    """The words and punctuation marks of a text."""
    return WORDS.findall(text.lower() if lower else text)


def make_vocabulary(
    texts: Sequence[str], kind: Kind, *, most: int, lower: bool, length: int
) -> Vocabulary:
    """The vocabulary of a training text, of `most` tokens at most.

    Raises:
        UsageError: pieces take a package that is not installed.
    """
    first = (PADDING, UNKNOWN)
    if kind == "words":
        words = (word for text in texts for word in words_of(text, lower=lower))
        return Vocabulary(commonest(words, most, first), kind, lower, length)
    return Vocabulary(learn_pieces(texts, most, lower=lower, first=first), kind, lower, length)


def encode(vocabulary: Vocabulary, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Texts as numbers [n,L] int64, filled up with 0, and how many tokens each has, [n] int64,
    before it is cut.

    Raises:
        UsageError: as `make_vocabulary`.
    """
    if vocabulary.tokenizer is not None:
        found = list(_of_transformers(vocabulary, vocabulary.tokenizer, texts))
    else:
        found = list(_of_ours(vocabulary, texts))
    counts = [count for _, count in found]
    cut = [kept + [0] * (vocabulary.length - len(kept)) for kept, _ in found]
    shape = (len(cut), vocabulary.length)
    return torch.tensor(cut, dtype=torch.int64).view(shape), torch.tensor(counts).long()


def _of_ours(vocabulary: Vocabulary, texts: Sequence[str]) -> Iterator[tuple[list[int], int]]:
    """The numbers of each text, cut, and how many it had."""
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    split = _splitter(vocabulary)
    for text in texts:
        tokens = split(text)
        yield [numbers.get(token, 1) for token in tokens[: vocabulary.length]], len(tokens)


def _of_transformers(
    vocabulary: Vocabulary, content: str, texts: Sequence[str]
) -> Iterator[tuple[list[int], int]]:
    """The same, with the tokens that the tokenizer puts around a text; those are never cut off."""
    whole, cutting = opened(content), opened(content)
    cutting.enable_truncation(max_length=vocabulary.length)
    bare = whole.num_special_tokens_to_add(is_pair=False)
    for text in texts:
        ids = whole.encode(text).ids
        count = 0 if len(ids) <= bare else len(ids)
        if len(ids) > vocabulary.length:
            ids = cutting.encode(text).ids
        yield [number + BEHIND for number in ids], count


def _splitter(vocabulary: Vocabulary) -> Any:
    if vocabulary.kind == "words":
        return lambda text: words_of(text, lower=vocabulary.lower)
    return piece_splitter(vocabulary.tokens, lower=vocabulary.lower)


# ---- pieces --------------------------------------------------------------------------------------


def _package() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UsageError(
            "pieces of words take the package tokenizers, which is not installed",
            hint='pip install "kdcli[hf]", or data.tokens = "words"',
        ) from error
    return tokenizers


def _reading(tokenizers: Any, vocabulary: dict[str, int], *, lower: bool) -> Any:
    """WordPiece of these pieces, on text that is cut at spaces and punctuation marks as BERT
    does.
    """
    model = tokenizers.models.WordPiece(
        vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD
    )
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=lower
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return made


def learn_pieces(
    texts: Iterable[str], most: int, *, lower: bool, first: tuple[str, ...]
) -> tuple[str, ...]:
    """Some tokens, and behind them the pieces that a text is made of, `most` in all, or as many
    as its letters need.

    Raises:
        UsageError: the package is not installed.
    """
    tokenizers = _package()
    made = _reading(tokenizers, {UNKNOWN: 0}, lower=lower)

    def words(text: str) -> list[str]:
        normal = made.normalizer.normalize_str(text)
        return [word for word, _ in made.pre_tokenizer.pre_tokenize_str(normal)]

    split = [words(text) for text in texts]
    letters = commonest(
        (letter for text in split for word in text for letter in word), most // 4, ()
    )
    known = set(letters)
    # the package numbers letters in the order of a hash table, which differs from run to run, and
    # breaks ties by these numbers: they are given to it, and no word that has others
    given = [*first, *sorted(letters), *sorted(f"##{letter}" for letter in letters)]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=max(most, len(given)), special_tokens=given, show_progress=False
    )
    kept = (" ".join(word for word in text if known.issuperset(word)) for text in split)
    made.train_from_iterator(kept, trainer)
    found: dict[str, int] = made.get_vocab()
    return tuple(sorted(found, key=lambda token: found[token]))


def piece_splitter(tokens: Sequence[str], *, lower: bool) -> Any:
    """What cuts a text into these pieces: text to a list of them.

    Raises:
        UsageError: the package is not installed.
    """
    numbers = {token: number for number, token in enumerate(tokens)}
    made = _reading(_package(), numbers, lower=lower)

    def split(text: str) -> list[str]:
        found: list[str] = made.encode(text, add_special_tokens=False).tokens
        return found

    return split
