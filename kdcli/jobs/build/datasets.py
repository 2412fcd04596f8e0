"""Datasets by name. Of runs that follow each other in one process, as the cells of a sweep do, the
first reads theirs, and keeps the last that was read (kdcli.jobs.build.kept).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdcli import catalog, formatting
from kdcli.core.types import Feed
from kdcli.data.arranged import NamelessClasses
from kdcli.data.augment import Augmentation
from kdcli.data.feed import Decode, Decoded, Score, Share
from kdcli.data.open_feed import make_feed
from kdcli.data.source import Source
from kdcli.data.text import Text, TextFeed
from kdcli.errors import KdError, UsageError
from kdcli.jobs.build import kept
from kdcli.jobs.build.data_subset import restriction_of
from kdcli.recipe.schema import DataSection
from kdcli.results.preprocessing import Sight

ClassNames = Callable[[], Sequence[str]]


def open_source(data: DataSection, class_names: ClassNames | None = None) -> Source | Text:
    """The dataset that a [data] section names.

    Args:
        class_names: gives what a network calls its classes, which is asked where no picture has a
            label and the section names no class.

    Raises:
        NotFound: it is not on this machine. BadData: it is, and cannot be used.
    """
    key = data.model_dump_json(include={"name", "root", *data.own_keys()})
    return kept.get("dataset", key, lambda: _named(data, class_names))


def _named(data: DataSection, class_names: ClassNames | None) -> Source | Text:
    """The dataset, by its own names of classes or else by those that a network has for them."""
    try:
        return _read(data)
    except NamelessClasses:
        names = tuple(class_names()) if class_names is not None else ()
        if not names:
            raise
        source = _read(data.model_copy(update={"class_names": names}))
        note = f"no picture has a label: classes are the network's, {formatting.listed(names, 3)}"
        return replace(source, notes=(*source.notes, note))


def _read(data: DataSection) -> Source | Text:
    found = catalog.entry("dataset", data.name)
    module = catalog.load(found)
    if found.factory is not None:
        from kdcli.data.datasets.user import from_user

        try:
            made = getattr(module, found.factory)()
        except KdError:
            raise
        except Exception as error:
            raise UsageError(
                f"{data.name} failed: {type(error).__name__}: {error}",
                hint="it is called without arguments",
            ) from error
        options: Any = catalog.options_class(found)(**data.options)
        return from_user(made, origin=data.name, options=options)
    source: Source | Text = module.load(
        data.name, options=module.Options(**data.options), root=catalog.data_root(data.root)
    )
    return source


def download(name: str, root: str | None = None) -> Path:
    """Fetches a dataset with torchvision; returns the folder it is in.

    Raises:
        UsageError: there is nothing to fetch for it. KdError: the network or the disk failed.
    """
    found = catalog.entry("dataset", name)
    if not found.facts.get("download"):
        raise UsageError(
            f"{name} is not downloaded: it is embedded, generated or your own",
            hint=f"kd datasets {name}",
        )
    folder = catalog.data_root(root)
    catalog.load(found).download(name, root=folder)
    return folder


def open_feed(
    data: DataSection,
    *,
    device: torch.device,
    seed: int,
    batch_size: int = 64,
    workers: int = 0,
    decode: Decode = "workers",
    score: Score | None = None,
    share: Share | None = None,
    sight: Sight | None = None,
    class_names: ClassNames | None = None,
    decoded: Decoded | None = None,
) -> Feed:
    """Batches of a [data] section on a device.

    Args:
        seed: decides what is held out, the order of samples and their augmentation.
        batch_size: of training minibatches.
        workers: processes that decode image files. decode: whether they decode those of training
            too.
        score: ranks the training images where the section asks for a choice by rank.
        share: which of a training minibatch's so many samples are wanted; all unless given.
        sight: what the network that is trained sees, where these are not the data's own pixels.
        class_names: as for `open_source`.
        decoded: hears how many pictures of how many are decoded, while a cache of them is filled.
    """
    source = open_source(data, class_names)
    if isinstance(source, Text):
        return TextFeed(
            source,
            name=data.name,
            batch_size=batch_size,
            eval_batch_size=data.eval_batch_size,
            val_fraction=data.val_fraction,
            seed=seed,
            device=device,
            share=share,
        )
    return make_feed(
        source,
        name=data.name,
        batch_size=batch_size,
        eval_batch_size=data.eval_batch_size,
        val_fraction=data.val_fraction,
        train_limit=data.train_limit,
        augment=augmentation(data),
        seed=seed,
        device=device,
        workers=workers,
        decode=decode,
        restriction=restriction_of(data, source.class_names),
        score=score,
        share=share,
        sampler=data.sampler,
        sight=sight,
        decoded=decoded,
    )


def augmentation(data: DataSection) -> Augmentation:
    """How the training images of a [data] section vary: as it says, or as its dataset usually
    does.
    """
    declared = catalog.entry("dataset", data.name).facts.get("augment") or {}
    return Augmentation(
        **(data.augment.model_dump() if data.augment is not None else declared), fixed=data.views
    )
