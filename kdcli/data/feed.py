"""Feeds: a source as batches on the device.

Order and views are functions of (seed, epoch, index), so an epoch can begin at any minibatch, and
neither the number of worker processes nor an interruption changes a pixel. Both kinds of source
share this file's splits, order, views and normalisation and differ only in how uint8 images come to
the device.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from kdcli.core import random
from kdcli.core.lazily import Lazily
from kdcli.core.types import UNLABELLED, Batch, DataInfo, Draw, Feed, Sees, SplitName
from kdcli.data.augment import Augmentation
from kdcli.data.mix import Mix, draw, mixed
from kdcli.data.sampler import Sampler, balanced, shuffled
from kdcli.data.source import ImageArrays, Source, pixel_statistics
from kdcli.data.split import sample_by_class

# in a batch when nothing is trained: 4,096 pictures of 32x32, 83 of 224x224
_MOST_PIXELS = 1 << 22

Share = Callable[[int], slice]
Decoded = Callable[[int, int], object]
Decode = Literal["workers", "device"]
Pictures = Callable[[], Tensor]  # makes those [B,C,H,W] that a network sees


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a feed besides its source.

    batch_size: when training; eval_batch_size: when not. share: which of a minibatch's so many
    samples are wanted here, where ranks share minibatches; None for all. decode: what decodes the
    JPEG files of training. sampler: which images an epoch shows. decoded: hears how many pictures
    of how many are decoded, while a cache of them is filled.
    """

    batch_size: int
    eval_batch_size: int
    augment: Augmentation
    seed: int
    device: torch.device
    workers: int
    share: Share | None = None
    decode: Decode = "workers"
    sampler: Sampler = "shuffle"
    decoded: Decoded | None = None


class Part(NamedTuple):
    """The contents of a batch: samples [B], the view of each [B], and its change in that view
    [B].
    """

    index: Tensor  # type: ignore[assignment]  # a tuple's method of that name is not needed
    view: Tensor
    change: Tensor

    def rows(self, start: int, stop: int) -> Part:
        """Those from one place to before another."""
        return Part(self.index[start:stop], self.view[start:stop], self.change[start:stop])

    def taken(self, first: list[int], start: int, stop: int) -> Part:
        """The same, and others before them."""
        return Part(*(torch.cat([every[first], every[start:stop]]) for every in self))


# of a feed whose training split is the whole training set: a number [n_train] for each image
Score = Callable[[Feed], Tensor]


class SourceFeed(ABC):
    """The base of resident and streamed feeds; implements kdcli.core.types.Feed.

    Args:
        source: resident or streamed.
        info: of its training split.
        rows: positions of each split in the source's own training or test part.
        plan: batch sizes, augmentation, seed, device, workers.
    """

    resident: bool = False

    def __init__(
        self, source: Source, info: DataInfo, rows: dict[SplitName, Tensor], plan: Plan
    ) -> None:
        self.info = info
        self.plan = plan
        self._sizes = {name: len(positions) for name, positions in rows.items()}
        self._positions = rows
        self._files: dict[SplitName, tuple[str, ...]] = {
            "train": source.train,
            "val": source.train,
            "test": source.test,
        }
        labels: dict[SplitName, Tensor] = {
            "train": source.y_train,
            "val": source.y_train,
            "test": source.y_test,
        }
        self._labels = {
            name: labels[name][positions].to(plan.device) for name, positions in rows.items()
        }
        self._parts = {name: len(of_part) for name, of_part in labels.items()}
        self._scale = (
            255.0
            if not isinstance(source, ImageArrays) or source.x_train.dtype == torch.uint8
            else 1.0
        )
        self._show(())

    def showing(self, others: Sequence[Sees]) -> Self:
        """The same feed, whose batches also hold what networks see by these (`Batch.others`)."""
        made = copy.copy(self)
        made._show(others)  # noqa: SLF001  of this very class
        return made

    def _show(self, others: Sequence[Sees]) -> None:
        """Sets what batches hold: the data's own pixels, and then those of others."""
        self._seen = (Sees(self.info.pixels), *dict.fromkeys(others))
        self._statistics = [
            tuple(
                part.to(self.plan.device)
                for part in pixel_statistics(seen.pixels.mean, seen.pixels.std, self._scale)
            )
            for seen in self._seen
        ]

    @property
    def train_batches(self) -> int:
        """Minibatches an epoch. A last one of a single sample is left out: batch norms and
        relations need two.
        """
        whole, rest = divmod(self.info.num_train, self.plan.batch_size)
        return whole + (rest > 1)

    def size(self, name: SplitName) -> int:
        """Samples in a split, 0 where it does not exist."""
        return self._sizes[name]

    def positions(self, name: SplitName) -> tuple[Tensor, int]:
        """The position [n] of each sample of a split in the source's own training or test part, and
        how many samples that part has.
        """
        return self._positions[name], self._parts[name]

    def files(self, name: SplitName) -> tuple[str, ...]:
        """The file of each sample of a split, in index order, below the dataset's folder; empty
        where samples are from no files.
        """
        paths = self._files[name]
        return tuple(paths[at] for at in self._positions[name].tolist()) if paths else ()

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Augmented, shuffled minibatches of an epoch (from 1), beginning with minibatch number
        `start` (from 0).
        """
        share = self.plan.share
        bounds = range(
            start * self.plan.batch_size,
            self.train_batches * self.plan.batch_size,
            self.plan.batch_size,
        )
        counts = [min(self.plan.batch_size, self.info.num_train - at) for at in bounds]
        # cut before anything is loaded: no rank decodes the images of another
        own = [slice(0, count) if share is None else share(count) for count in counts]
        drawn = self._epoch_order(epoch)
        # a picture is mixed with the one before it: a rank needs one more than its own
        led = [
            self.plan.augment.mixes and part != slice(0, count)
            for part, count in zip(own, counts, strict=True)
        ]
        parts = (
            drawn.taken([at + (part.start - 1) % count], at + part.start, at + part.stop)
            if more
            else drawn.rows(at + part.start, at + part.stop)
            for at, part, count, more in zip(bounds, own, counts, led, strict=True)
        )
        batches = self._batches("train", parts, training=True)
        if self.plan.augment.mixes:
            batches = (
                mixed(batch, self._mix(epoch, number), led=more)
                for number, (batch, more) in enumerate(zip(batches, led, strict=True), start)
            )
        return (
            batches
            if share is None
            else (replace(batch, whole=count) for batch, count in zip(batches, counts, strict=True))
        )

    def _mix(self, epoch: int, number: int) -> Mix:
        """How minibatch `number` of an epoch is mixed."""
        augment = self.plan.augment
        stream = random.key(self.plan.seed, "mix", epoch, number)
        return draw(stream, augment.mixup, augment.cutmix, self.info.pixels.size)

    def draws(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        """The samples and views that `train` makes batches of, where it does not share them."""
        size, drawn = self.plan.batch_size, self._epoch_order(epoch)
        parts = (
            drawn.rows(number * size, (number + 1) * size)
            for number in range(start, self.train_batches)
        )
        return (Draw(part.index, part.view) for part in parts)

    def _epoch_order(self, epoch: int) -> Part:
        """All training samples in an epoch's order, each with its view: at once, because a launch
        costs more than a sample.
        """
        deal = balanced if self.plan.sampler == "balanced" else shuffled
        stream = random.key(self.plan.seed, "order", epoch)
        order, before = deal(stream, self._labels["train"])
        # an image that comes again in the epoch comes in another view
        views = self.plan.augment.sample_views(
            random.key(self.plan.seed, "view", epoch), order + self.info.num_train * before
        )
        return Part(order, views, self.plan.augment.change(order, views))

    @property
    def _at_once(self) -> int:
        """Samples a batch when nothing is trained: as many as asked for, and fewer of large
        pictures, which all networks see, and whose maps would take the memory.
        """
        largest = max(math.prod(seen.pixels.size) for seen in self._seen)
        return min(self.plan.eval_batch_size, max(_MOST_PIXELS // largest, 2))

    def split(self, name: SplitName) -> Iterator[Batch]:
        """A split in index order, not augmented. A split that does not exist yields nothing."""
        rows, size = torch.arange(self.size(name), device=self.plan.device), self._at_once
        indices = (rows[at : at + size] for at in range(0, len(rows), size))
        return self._batches(name, (_as_it_is(index) for index in indices), training=False)

    def sample(self, name: SplitName, count: int) -> Iterator[Batch]:
        """At most `count` samples of a split, each class in proportion to its share, not augmented:
        of those with a label, where there are any.

        The same ones each time, whatever the recipe's seed: what two runs show of them can be
        compared. A batch holds two or more, as batch norms may need (a split of a single sample
        excepted).
        """
        every = self._labels[name].cpu()
        labelled = (every != UNLABELLED).nonzero().flatten()
        there = labelled if len(labelled) else torch.arange(len(every))
        labels = every[there] if len(labelled) else torch.zeros_like(every)
        count = min(count, len(labels))
        if count == 0:
            return iter(())
        stream = random.key(0, "sample")
        # with fewer, it would take the first classes alone
        by_class = count >= int(torch.bincount(labels).count_nonzero())
        chosen = (
            sample_by_class(labels, count, stream).nonzero()
            if by_class
            else random.permutation(stream, len(labels))[:count]
        )
        rows = there[chosen.flatten().sort().values].to(self.plan.device)
        batches = min(-(-count // self._at_once), max(count // 2, 1))
        return self._batches(
            name, (_as_it_is(index) for index in rows.tensor_split(batches)), training=False
        )

    def pixels(self, name: SplitName, index: Tensor) -> Tensor:
        """The samples of a split at places [B] as the student sees them, neither augmented nor
        normalised: [B,C,H,W] uint8, or float32 where they are no pictures.
        """
        size = self.plan.eval_batch_size
        parts = (_as_it_is(some) for some in torch.split(index.to(self.plan.device), size))
        return torch.cat([seen[0]() for seen, _ in self._images(name, parts, training=False)])

    def view(self, index: Tensor, view: Tensor) -> Batch:
        """The given views [B] of the training samples at index [B], as a training batch has
        them.
        """
        index, view = index.to(self.plan.device), view.to(self.plan.device)
        return next(
            self._batches(
                "train", (Part(index, view, self.plan.augment.change(index, view)),), training=True
            )
        )

    def _batches(
        self, name: SplitName, parts: Iterable[Part], *, training: bool
    ) -> Iterator[Batch]:
        for pictures, part in self._images(name, parts, training=training):
            changes = self._changes(part, training=training)
            x, *others = (
                partial(self._normalised, *each)
                for each in zip(pictures, self._statistics, changes, strict=True)
            )
            yield Batch(
                x(),
                self._labels[name][part.index],
                part.index,
                part.view,
                others=Lazily(dict(zip(self._seen[1:], others, strict=True))),
            )

    def _normalised(
        self, pictures: Pictures, statistics: Sequence[Tensor], change: Tensor | None
    ) -> Tensor:
        """Pictures [B,C,H,W] as a network takes them, with rectangles erased where their change
        says so.
        """
        mean, std = statistics
        x = pictures()
        if x.dtype == torch.int64:  # tokens are numbers of words
            return x
        x = _standardised(x, mean, std)
        if change is None or not self.plan.augment.erasing:
            return x
        return self.plan.augment.erase(x, change)

    def _changes(self, part: Part, *, training: bool) -> list[Tensor | None]:
        """What happens to the pictures [B] before each network of `_seen` sees them; None for
        nothing.
        """
        found: dict[str, Tensor | None] = {"same": part.change, "fixed": None}
        if any(seen.view == "independent" for seen in self._seen):
            found["independent"] = self.plan.augment.another(part.index, part.change)
        return [found[seen.view] if training else None for seen in self._seen]

    @abstractmethod
    def _images(
        self, name: SplitName, parts: Iterable[Part], *, training: bool
    ) -> Iterator[tuple[Sequence[Pictures], Part]]:
        """What makes the images on the device for each part, as every network of `_seen` sees
        them, changed if training, before they are normalised.
        """


def _standardised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pictures [B,C,H,W] less mean [C,1,1] and by std [C,1,1], in float32."""
    if x.stride(1) != 1 or x.shape[1] != len(mean) or x.shape[1] == 1:
        return (x.float() - mean).div_(std)  # grey [B,1,H,W] is repeated by three means
    # the colours of a pixel lie side by side: the same arithmetic on rows of [H,W*C], which is
    # four times as fast as on runs of three numbers
    pixels = x.permute(0, 2, 3, 1)
    means, stds = (part.flatten().repeat(x.shape[3]) for part in (mean, std))
    made = (pixels.flatten(2).float() - means).div_(stds)
    return made.view(pixels.shape).permute(0, 3, 1, 2)


def _as_it_is(index: Tensor) -> Part:
    """Samples [B] that are not changed."""
    nothing = torch.zeros_like(index)
    return Part(index, nothing, nothing)
