"""The nouns of the engine: what a batch, an output, a step and a dataset are. Letters as in
docs/reference: B batch, N rows of logits, K classes, C,H,W maps, D embedding; z student logits, v
teacher logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from kdcli.core.lazily import Lazily
from kdcli.core.mixed_labels import Mixed
from kdcli.core.task import IMAGE_CLASSIFICATION
from kdcli.results.preprocessing import Preprocessing
from kdcli.results.vocabulary import Vocabulary

SplitName = Literal["train", "val", "test"]
Shown = Literal["same", "fixed", "independent"]


@dataclass(frozen=True, slots=True)
class Sees:
    """What a network sees of a training picture beside the one that is trained. view: the same view
    of it, with the same crop and flip; the picture as it is; or another view of it.
    """

    pixels: Preprocessing
    view: Shown = "same"


UNLABELLED = -1  # the label of a sample that has none


@dataclass(frozen=True, slots=True)
class Batch:
    """One minibatch on the device.

    x: [B,C,H,W] float, normalised with DataInfo.mean and std. y: [B] int64, from 0; UNLABELLED, -1,
    for a sample without a label: any training sample, or all held-out or test samples
    (`DataInfo.bare`).
    index: [B] int64, position in the training set, which memory banks and logit caches key on.
    view: [B] int64, which augmented view of that sample (0 where there is no augmentation).
    whole: samples of the minibatch that several ranks share, this being one rank's part of it; 0
    where nothing is shared. others: the same samples as networks see them that do not see x,
    [B,C,H,W] each (`Feed.showing`), made when one asks: a teacher whose answers are stored does
    not. mixed: where each picture is a mixture of two, the labels of the others, and the share of
    y.

    Texts that are sorted into classes are tokens, [B,1,1,L] int64, filled up with 0.

    Of text that is read on and on x is windows of tokens, [B,1,1,L] int64, and y, index and view
    have a row a token, [B*L], window by window. window: its number in the text from 0; None where
    samples follow nothing. pace: factor of the learning rate, by its length.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    view: Tensor
    whole: int = 0
    others: Mapping[Sees, Tensor] = field(default_factory=dict)
    mixed: Mixed | None = None
    window: int | None = None
    pace: float = 1.0

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor [B,...] changed: rows taken out of it, or filled up."""
        return replace(
            self.pictures(change),
            y=change(self.y),
            index=change(self.index),
            view=change(self.view),
            mixed=self.mixed and self.mixed._replace(y=change(self.mixed.y)),
        )

    def pictures(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with its pictures alone changed, x and the others."""
        before = self.others
        others = {seen: partial(_changed, change, before, seen) for seen in before}
        return replace(self, x=change(self.x), others=Lazily(others))


def _changed(
    change: Callable[[Tensor], Tensor], others: Mapping[Sees, Tensor], seen: Sees
) -> Tensor:
    return change(others[seen])


def filled_up(x: Tensor, rows: int) -> Tensor:
    """Rows [B,...] with zeros behind them, [rows,...]: in the same layout, strides and all.

    A network's answer to an image depends in its last bits on how many images are asked with it,
    since that decides how the arithmetic is cut into blocks. Asked in one shape, it was found to
    depend neither on the image's place nor on its neighbours.
    """
    if len(x) == rows:
        return x
    filled: Tensor = torch.empty_strided(
        (rows, *x.shape[1:]), x.stride(), dtype=x.dtype, device=x.device
    )
    filled[: len(x)] = x
    filled[len(x) :] = 0
    return filled


@dataclass(frozen=True, slots=True)
class Draw:
    """The training samples of a minibatch, and the view of each: index, view [B] int64, on the
    device, as in `Batch`.
    """

    index: Tensor
    view: Tensor


class Output(NamedTuple):
    """The output of a network: logits [N,K] and the taps that were asked for, by name."""

    logits: Tensor
    taps: Mapping[str, Tensor]


class Step(NamedTuple):
    """The loss of a step: its terms by name, already weighted (the engine sums and logs them), and
    the logits [N,K] of the network whose training accuracy is worth showing.
    """

    losses: dict[str, Tensor]
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Tap:
    """A named place inside a network, declared so that a regressor can be sized without a dry run.

    stride: input pixels a position of the map, or None where the tap is a vector ("pooled").
    """

    channels: int
    stride: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The position in training. epoch counts from 1; step is the number of optimiser steps of this
    stage already taken.
    """

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """Share of the stage that is done, 0 to 1."""
        return self.step / max(self.steps, 1)

    def warmup(self, epochs: int) -> float:
        """Factor of a weight that grows linearly over so many epochs and is whole in the last of
        them; 1 where there are none.
        """
        return min(self.epoch / epochs, 1.0) if epochs else 1.0


@dataclass(frozen=True, slots=True)
class DataInfo:
    """The facts about the data that a method or a checkpoint may know.

    targets: [num_train] int64, labels of the training split in index order, UNLABELLED where a
    sample has none.
    superclass: [K] int64 or None: the superclass of each class. mean, std: per channel, of pixels
    in [0, 1].
    fingerprint: of the whole dataset. positions_sha256: of where the training split lies in it;
    where both are equal, so is the image that an index stands for. notes: what a run says of how
    the files were read. shown: see `pixels`. task: what a network is asked (kdcli.tasks). bare: the
    parts to measure on whose samples have no labels. vocabulary: of texts that are sorted into
    classes.
    """

    name: str
    num_classes: int
    num_train: int
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    targets: Tensor = field(repr=False)
    superclass: Tensor | None = field(default=None, repr=False)
    positions_sha256: str = ""
    notes: tuple[str, ...] = ()
    shown: Preprocessing | None = None
    task: str = IMAGE_CLASSIFICATION
    bare: tuple[SplitName, ...] = ()
    vocabulary: Vocabulary | None = field(default=None, repr=False)

    @property
    def pixels(self) -> Preprocessing:
        """How a picture becomes what Batch.x holds of it: taken whole where nothing is said."""
        return self.shown or Preprocessing.of_data(self.input_shape, self.mean, self.std)

    @property
    def vocabulary_size(self) -> int | None:
        """Tokens that texts are made of; None where the samples are no texts with classes."""
        return None if self.vocabulary is None else len(self.vocabulary.tokens)

    @property
    def labelled(self) -> Tensor:
        """The labels that there are, [m] int64, in index order."""
        return self.targets[self.targets != UNLABELLED]

    @property
    def unlabelled(self) -> int:
        """Training samples without a label."""
        return self.num_train - len(self.labelled)


class Feed(Protocol):
    """Batches on the device: what data gives and the engine takes."""

    @property
    def info(self) -> DataInfo: ...

    @property
    def train_batches(self) -> int:
        """Minibatches an epoch."""

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Augmented, shuffled minibatches of an epoch (from 1), beginning with minibatch number
        `start` (from 0).
        """

    @property
    def resident(self) -> bool:
        """Tells whether `view` makes a batch from what lies on the device, without asking the
        host.
        """

    def draws(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        """The samples and views that `train` makes batches of, in the same order."""

    def split(self, name: SplitName) -> Iterator[Batch]:
        """A split in index order, not augmented. A split that does not exist yields nothing."""

    def sample(self, name: SplitName, count: int) -> Iterator[Batch]:
        """At most `count` samples of a split, by class, not augmented: the same ones each time, two
        or more a batch.
        """

    def pixels(self, name: SplitName, index: Tensor) -> Tensor:
        """The samples of a split at places [B], neither augmented nor normalised: [B,C,H,W] uint8,
        or float32 where they are no pictures.
        """

    def view(self, index: Tensor, view: Tensor) -> Batch:
        """The given views [B] of the training samples at index [B], as a training batch has
        them.
        """

    def size(self, name: SplitName) -> int:
        """Samples in a split, 0 where it does not exist."""

    def positions(self, name: SplitName) -> tuple[Tensor, int]:
        """The position [n] of each sample of a split in the dataset's own training or test part,
        and how many samples that part has.
        """

    def files(self, name: SplitName) -> tuple[str, ...]:
        """The file of each sample of a split, in index order; empty where there are none."""

    def showing(self, others: Sequence[Sees]) -> Self:
        """The same feed, whose batches also hold what networks see by these (`Batch.others`)."""


class Arity(NamedTuple):
    """The number of teachers a method takes: at least, and at most (None: no limit)."""

    least: int
    most: int | None

    def admits(self, count: int) -> bool:
        return count >= self.least and (self.most is None or count <= self.most)
