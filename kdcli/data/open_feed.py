"""Opening a source as a feed: its splits, and which kind of feed serves it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kdcli.core.types import UNLABELLED, DataInfo, Feed, SplitName
from kdcli.data.augment import Augmentation
from kdcli.data.feed import Decode, Decoded, Plan, Score, Share
from kdcli.data.resident import ResidentFeed
from kdcli.data.sampler import Sampler
from kdcli.data.source import ImageArrays, Source
from kdcli.data.split import partition
from kdcli.data.subset import Restriction
from kdcli.errors import UsageError
from kdcli.results.preprocessing import Preprocessing, Sight


def make_feed(
    source: Source,
    *,
    name: str,
    batch_size: int,
    eval_batch_size: int,
    val_fraction: float,
    train_limit: int | None,
    augment: Augmentation,
    seed: int,
    device: torch.device | str,
    workers: int,
    decode: Decode = "workers",
    restriction: Restriction | None = None,
    score: Score | None = None,
    share: Share | None = None,
    sampler: Sampler = "shuffle",
    sight: Sight | None = None,
    decoded: Decoded | None = None,
) -> Feed:
    """A source as batches on a device.

    Args:
        source: resident or streamed.
        name: the dataset's, for DataInfo.
        batch_size: samples a training minibatch.
        eval_batch_size: samples a batch of `split`.
        val_fraction: share of the training set held out by class, 0 for none.
        train_limit: samples of the rest to train on, by class; None for all.
        augment: changes to training images.
        seed: the recipe's.
        device: where batches are. workers: processes that decode images; resident data need none.
        restriction: what is taken away from the training split; DataInfo, batch.index and sizes are
            those of what stays.
        score: by what a restriction ranks images; called only if it does.
        share, decode, sampler, decoded: as of Plan.
        sight: what the network that is trained sees, where these are not the data's own pixels.

    Raises:
        UsageError: nothing would be held out, more samples are asked for than there are, or the
            restriction is impossible.
        BadData: a class has no training sample, or the scores are none.
        Incompatible: the augmentation does not fit the source.
    """
    pixels = (sight or Sight()).on(source.preprocessing)
    augment.check(source.input_shape if isinstance(source, ImageArrays) else pixels.input_shape)
    plan = Plan(
        batch_size,
        eval_batch_size,
        augment,
        seed,
        torch.device(device),
        workers,
        share,
        decode,
        sampler,
        decoded,
    )
    train, val = partition(
        source.y_train,
        val_fraction=val_fraction,
        train_limit=train_limit,
        seed=seed,
        class_names=source.class_names,
        restriction=restriction,
        scores=None if score is None else lambda: score(_whole(source, name, plan, pixels)).cpu(),
        held=source.held,
    )
    if len(train) == 1 < batch_size:
        raise UsageError(
            "one sample is not enough to train on",
            hint="raise data.train_limit or lower data.val_fraction",
        )
    rows: dict[SplitName, Tensor] = {
        "train": train,
        "val": val,
        "test": torch.arange(len(source.y_test)),
    }
    info = _info(source, name, train, pixels)
    return _feed(source, _with_bare_parts(info, source, val), rows, plan)


def _with_bare_parts(info: DataInfo, source: Source, val: Tensor) -> DataInfo:
    """The same that says which parts to measure on have no labels. val: positions held out."""
    parts: dict[SplitName, Tensor] = {"val": source.y_train[val], "test": source.y_test}
    bare = tuple(part for part, y in parts.items() if _all_bare(y))
    told = "the test images have no labels: what is measured is agreement with the teacher"
    notes = (*info.notes, told) if "test" in bare else info.notes
    return replace(info, bare=bare, notes=notes)


def _all_bare(y: Tensor) -> bool:
    return len(y) > 0 and bool((y == UNLABELLED).all())


def _feed(source: Source, info: DataInfo, rows: dict[SplitName, Tensor], plan: Plan) -> Feed:
    if not isinstance(source, ImageArrays):
        from kdcli.data.streamed import StreamedFeed

        return StreamedFeed(source, info, rows, plan)
    return ResidentFeed(source, info, rows, plan)


def _whole(source: Source, name: str, plan: Plan, pixels: Preprocessing) -> Feed:
    """The whole training set, held-out part and all, and nothing else: `split("train")` goes
    through it as it is stored.
    """
    every, none = torch.arange(len(source.y_train)), torch.arange(0)
    rows: dict[SplitName, Tensor] = {"train": every, "val": none, "test": none}
    return _feed(source, _info(source, name, every, pixels), rows, plan)


def _without_labels(y: Tensor) -> Iterator[str]:
    """A word on training samples that have no label."""
    if count := int((y == UNLABELLED).sum()):
        of = f"{count:,} of {len(y):,} training images"
        yield f"{of} have no label: the teacher alone answers them"


def _info(source: Source, name: str, train: Tensor, pixels: Preprocessing) -> DataInfo:
    return DataInfo(
        name=name,
        num_classes=len(source.class_names),
        num_train=len(train),
        input_shape=pixels.input_shape,
        class_names=source.class_names,
        mean=pixels.mean,
        std=pixels.std,
        shown=pixels,
        fingerprint=source.fingerprint,
        targets=source.y_train[train],
        superclass=source.superclass,
        notes=(*source.notes, *_without_labels(source.y_train[train])),
        positions_sha256=hashlib.sha256(train.numpy().astype("<i8").tobytes()).hexdigest(),
        task=source.task,
        vocabulary=source.vocabulary,
    )
