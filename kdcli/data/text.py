"""Text as a source, and as a feed: parts of it side by side, a window of tokens at a time.

A text of T tokens is cut into B contiguous parts of T // B tokens, which are read side by side: a
minibatch is the next window of all of them, x [B,1,1,L] int64 (as vectors are [B,1,1,d]), and the
targets are the tokens one further, [B*L], part by part. What is left over at the end is not read.

Nothing is shuffled, so that what a network remembers can go on from window to window
(kdcli.core.carried). Windows may have random lengths (S. Merity, N. S. Keskar, R. Socher,
Regularizing and optimizing LSTM language models, arXiv:1708.02182, section 4.1): then they are a
function of seed, epoch and number, and scaled so that every epoch has as many windows.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor

from kdcli.core import random
from kdcli.core.task import LANGUAGE_MODELLING
from kdcli.core.types import Batch, DataInfo, Draw, Sees, SplitName
from kdcli.errors import BadData, UsageError
from kdcli.results.preprocessing import Preprocessing

INPUT_SHAPE = (1, 1, 1)  # of a token: one number
SPREAD = 5.0  # standard deviation of random lengths, tokens
LONGER = 44  # tokens by which a random window may be longer: 5.8 deviations, and the scaling
SHORTEST = 5
HALVED = 0.05  # share of the windows whose mean length is half the usual

Share = Callable[[int], slice]


@dataclass(frozen=True, eq=False)
class Text:
    """A text whose tokens are numbers.

    train, val, test: [n] int64, below len(words); val may be empty: then a share of the end of the
    training text is held out if one is asked for. words: what each number stands for. window:
    tokens of a window. random_windows: whether their lengths are random. streams: parts side by
    side where nothing is trained. notes: what a run says of how it was read, a sentence each.
    """

    train: Tensor = field(repr=False)
    val: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    words: tuple[str, ...] = field(repr=False)
    window: int = 70
    random_windows: bool = False
    streams: int = 1
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[int, int, int]:
        """Tokens to train on, to hold out and to test on."""
        return len(self.train), len(self.val), len(self.test)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The words: what a row of logits chooses among."""
        return self.words

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the words and the three parts."""
        digest = hashlib.sha256("\0".join(self.words).encode())
        for part in (self.train, self.val, self.test):
            digest.update(f"\0{len(part)}\0".encode())
            digest.update(part.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


class TextFeed:
    """Windows of a text on the device; implements kdcli.core.types.Feed.

    Args:
        source: the text.
        name: the dataset's, for DataInfo.
        batch_size: parts that training reads side by side.
        eval_batch_size: tokens a minibatch where nothing is trained.
        val_fraction: share of the training text held out, its end, where the text brings no part
            for that.
        seed: of the lengths of windows.
        share: which of so many parts this process wants; all unless given.

    Raises:
        BadData: a part is too short to read. UsageError: a share is to be held out of a text that
            brings a part for that.
    """

    resident = False

    def __init__(
        self,
        source: Text,
        *,
        name: str,
        batch_size: int,
        eval_batch_size: int,
        val_fraction: float,
        seed: int,
        device: torch.device | str,
        share: Share | None = None,
    ) -> None:
        train, val = _held_out(source, val_fraction)
        self._window, self._random, self._seed = source.window, source.random_windows, seed
        self._share, self._device = share, torch.device(device)
        self._eval_window = max(eval_batch_size // source.streams, 1)
        self._train = _side_by_side(train, batch_size, "training").to(self._device)
        self._parts = {
            part: _side_by_side(tokens, source.streams, part).to(self._device)
            for part, tokens in (("val", val), ("test", source.test))
            if len(tokens)
        }
        if "test" not in self._parts:
            raise BadData(
                f"{name} has no text to test on", hint="data.test_fraction = 0.1, or a test file"
            )
        targets = self._train[:, 1:].flatten().cpu()
        self.info = DataInfo(
            name=name,
            num_classes=len(source.words),
            num_train=len(targets),
            input_shape=INPUT_SHAPE,
            class_names=source.words,
            mean=(0.0,),
            std=(1.0,),
            fingerprint=source.fingerprint,
            targets=targets,
            positions_sha256=hashlib.sha256(train.numpy().astype("<i8").tobytes()).hexdigest(),
            notes=source.notes,
            shown=Preprocessing.of_data(INPUT_SHAPE, (0.0,), (1.0,)),
            task=LANGUAGE_MODELLING,
        )

    # ---- training --------------------------------------------------------------------------------

    @property
    def train_batches(self) -> int:
        """Windows an epoch: the same in each, whatever their lengths."""
        usual = self._window * (1 - HALVED / 2) if self._random else self._window
        return max(math.ceil((self._train.shape[1] - 1) / usual), 1)

    def bounds(self, epoch: int) -> tuple[int, ...]:
        """Where the windows of an epoch begin and end, in tokens of each part, from 0 to all."""
        tokens, count = self._train.shape[1] - 1, self.train_batches
        if not self._random:
            return (*range(0, tokens, self._window), tokens)
        stream = random.key(self._seed, "window", epoch)
        ends = [*accumulate(self._length(stream, number) for number in range(count))]
        # scaled, by a percent or so, and every window keeps a token at least
        scaled = [0, *(round(end * tokens / ends[-1]) for end in ends)]
        return tuple(
            max(number, min(end, tokens - (count - number))) for number, end in enumerate(scaled)
        )

    def _length(self, stream: int, number: int) -> float:
        chosen, first, second = (random.uniform_int(stream, 3 * number + part) for part in range(3))
        mean = self._window / 2 if chosen < HALVED else self._window
        # Box and Muller's normal number; 1 - first is above 0
        normal = math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)
        return max(mean + SPREAD * normal, min(SHORTEST, self._window))

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The windows of an epoch (from 1), beginning with window number `start` (from 0)."""
        bounds, streams = self.bounds(epoch), len(self._train)
        part = slice(0, streams) if self._share is None else self._share(streams)
        for number in range(start, len(bounds) - 1):
            first, last = bounds[number], bounds[number + 1]
            yield _window(
                self._train,
                part,
                (first, last),
                number,
                whole=0 if self._share is None else streams * (last - first),
                pace=(last - first) / self._window if self._random else 1.0,
            )

    @property
    def layout(self) -> tuple[int, int]:
        """Parts of the training text side by side, and tokens of a window."""
        return len(self._train), self._window

    @property
    def length(self) -> int:
        """Tokens of each part of the training text that follow another."""
        return self._train.shape[1] - 1

    def in_order(self, start: int = 0) -> Iterator[Batch]:
        """The training text as it stands: windows of `data.window` tokens of all its parts, from
        that number on; the same for every epoch, seed and number of processes.
        """
        parts = slice(0, len(self._train))
        for number, first in enumerate(range(0, self.length, self._window)):
            if number >= start:
                bounds = (first, min(first + self._window, self.length))
                yield _window(self._train, parts, bounds, number)

    def draws(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        """The rows that `train` makes minibatches of."""
        return (Draw(batch.index, batch.view) for batch in self.train(epoch, start))

    def view(self, index: Tensor, view: Tensor) -> Batch:  # noqa: ARG002  nobody may ask
        """Nothing: what a token is asked about depends on those before it.

        Raises:
            UsageError: always.
        """
        raise UsageError("tokens of a text cannot be asked about one by one")

    # ---- measuring -------------------------------------------------------------------------------

    def split(self, name: SplitName) -> Iterator[Batch]:
        """A split from its beginning: `data.streams` parts side by side, the training text in those
        that it is trained in. A split that does not exist yields nothing.
        """
        tokens = self._train if name == "train" else self._parts.get(name)
        return iter(()) if tokens is None else _windows(tokens, self._eval_window)

    def sample(self, name: SplitName, count: int) -> Iterator[Batch]:
        """The first `count` tokens of a split that follow another, in one part."""
        tokens = self._train if name == "train" else self._parts.get(name)
        if tokens is None or count == 0:
            return iter(())
        # the first part, or as many as it takes: each goes on where the one before it ends
        text = tokens.flatten()[: count + 1][None]
        return _windows(text, max(self._eval_window, 2))

    def pixels(self, name: SplitName, index: Tensor) -> Tensor:
        """The tokens of a split at places [B], [B,1,1,1] int64."""
        tokens = self._train if name == "train" else self._parts[name]
        return tokens[:, :-1].flatten()[index].view(-1, *INPUT_SHAPE)

    def size(self, name: SplitName) -> int:
        """Tokens of a split that follow another, 0 where it does not exist."""
        tokens = self._train if name == "train" else self._parts.get(name)
        return 0 if tokens is None else tokens[:, 1:].numel()

    def positions(self, name: SplitName) -> tuple[Tensor, int]:
        """The place [n] of each row of a split in it, and how many there are."""
        return torch.arange(self.size(name)), self.size(name)

    def files(self, name: SplitName) -> tuple[str, ...]:  # noqa: ARG002  rows are of no files
        """None: tokens are of no file of their own."""
        return ()

    def showing(self, others: Sequence[Sees]) -> Self:  # noqa: ARG002  every network reads the same
        """The same feed: every network reads the same tokens."""
        return copy.copy(self)


def _held_out(source: Text, fraction: float) -> tuple[Tensor, Tensor]:
    """The text to train on, and that held out of training."""
    if len(source.val):
        if fraction:
            raise UsageError(
                "data.val_fraction is to hold a share of the training text out, and the text "
                "brings a part for that",
                hint="leave data.val_fraction out",
            )
        return source.train, source.val
    held = round(fraction * len(source.train))
    if fraction and held < 2:
        raise UsageError(
            f"data.val_fraction = {fraction:g} of {len(source.train):,} tokens holds nothing out",
            hint="a larger share",
        )
    whole = len(source.train)
    return source.train[: whole - held], source.train[whole - held :]


def _side_by_side(tokens: Tensor, streams: int, name: str) -> Tensor:
    """Tokens [T] as contiguous parts [B,T//B].

    Raises:
        BadData: a part would be too short for a token and one that follows it.
    """
    length = len(tokens) // streams
    if length < 2:
        raise BadData(
            f"the {name} text has {len(tokens):,} tokens, too few for {streams} parts side by side",
            hint="a longer text, or lower train.batch_size (data.streams where it is measured)",
        )
    return tokens[: length * streams].view(streams, length)


def _windows(tokens: Tensor, size: int) -> Iterator[Batch]:
    last = tokens.shape[1] - 1
    for number, first in enumerate(range(0, last, size)):
        yield _window(tokens, slice(0, len(tokens)), (first, min(first + size, last)), number)


def _window(
    tokens: Tensor,
    part: slice,
    bounds: tuple[int, int],
    number: int,
    *,
    whole: int = 0,
    pace: float = 1.0,
) -> Batch:
    """The window from one place to before another of some parts of a text [B,T]."""
    first, last = bounds
    rows = torch.arange(len(tokens), device=tokens.device)[part, None]
    places = torch.arange(first, last, device=tokens.device)
    index = (rows * (tokens.shape[1] - 1) + places).flatten()  # [B*L], part by part
    return Batch(
        tokens[part, None, None, first:last].contiguous(),
        tokens[part, first + 1 : last + 1].flatten(),
        index,
        torch.zeros_like(index),
        whole=whole,
        window=number,
        pace=pace,
    )
