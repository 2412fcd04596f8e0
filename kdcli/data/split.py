"""Parts of a dataset, drawn by class: a validation split held out of the training set, and a smaller training set.

A draw depends on (seed, purpose) alone, so a teacher, its student and a resumed run hold out the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcli.core import random
from kdcli.errors import BadData, UsageError


def draw(y: Tensor, count: int, stream: int) -> Tensor:
    """A mask [n] bool of `count` samples, each class in proportion to its share.

    Args:
        y: [n] int64 labels.
        count: at most n.
        stream: a key of kdcli.core.random.
    """
    quota = _quotas(torch.bincount(y), count)
    order = random.permutation(stream, len(y))
    by_class = order[torch.argsort(y[order], stable=True)]  # classes one after another, each in random order
    labels = y[by_class]
    first = torch.searchsorted(labels, torch.arange(len(quota)))
    rank = torch.arange(len(y)) - first[labels]
    mask = torch.zeros(len(y), dtype=torch.bool)
    mask[by_class[rank < quota[labels]]] = True
    return mask


def _quotas(counts: Tensor, total: int) -> Tensor:
    """Shares of `total` in proportion to counts [K], as integers that sum to it: the largest remainders are rounded up."""
    scaled = counts * total
    whole, population = scaled // counts.sum(), int(counts.sum())
    remainders = scaled - whole * population
    missing = total - int(whole.sum())
    up = torch.argsort(remainders, descending=True, stable=True)[:missing]
    whole[up] += 1
    return whole


def partition(y: Tensor, *, val_fraction: float, train_limit: int | None, seed: int, class_names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Positions [n_train] and [n_val] of the training and validation split in the training set, ascending.

    Args:
        y: [n] int64 labels of the whole training set.
        val_fraction: share that is held out, 0 for none.
        train_limit: samples to keep of what remains, None for all.
        seed: the recipe's.
        class_names: for messages.

    Raises:
        UsageError: the fraction holds out nothing, or the limit is above what there is.
        BadData: a class has no sample left to train on.
    """
    held = round(len(y) * val_fraction)
    if val_fraction > 0 and held == 0:
        raise UsageError(f"data.val_fraction {val_fraction:g} of {len(y)} samples holds out none", hint="raise data.val_fraction")
    val = draw(y, held, random.key(seed, "holdout"))
    train = torch.nonzero(~val).flatten()
    if train_limit is not None:
        if train_limit > len(train):
            raise UsageError(
                f"data.train_limit is {train_limit}, but only {len(train)} samples are there to train on",
                hint=f"set data.train_limit to {len(train)} at most, or leave it out",
            )
        train = train[draw(y[train], train_limit, random.key(seed, "limit"))]
    _check_classes(y[train], class_names, reduced=bool(held or train_limit))
    return train, torch.nonzero(val).flatten()


def _check_classes(y: Tensor, class_names: Sequence[str], *, reduced: bool) -> None:
    empty = [name for name, count in zip(class_names, torch.bincount(y, minlength=len(class_names)).tolist(), strict=True) if not count]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        hint = "raise data.train_limit or lower data.val_fraction" if reduced else "remove the class, or add samples of it"
        raise BadData(f"class {empty[0]!r}{more} has no training sample", hint=hint)
