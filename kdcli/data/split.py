"""Parts of a dataset, drawn by class: a validation split held out of the training set, and a
smaller training set.

A draw depends on (seed, purpose) alone, so a teacher, its student and a resumed run hold out the
same samples, whatever is then taken away from the rest. The validation split keeps every class:
like the test set, it shows what is to be predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor

from kdcli.core import random
from kdcli.core.types import UNLABELLED
from kdcli.data.subset import Restriction, check_sizes, choose
from kdcli.errors import BadData, UsageError


def sample_by_class(y: Tensor, count: int, stream: int) -> Tensor:
    """A mask [n] bool of `count` samples, each class in proportion to its share; those without a
    label are a class of their own.

    Args:
        y: [n] int64 labels.
        count: at most n.
        stream: a key of kdcli.core.random.
    """
    if len(y) and int(y.min()) == UNLABELLED:
        y = y - UNLABELLED
    quota = _quotas(torch.bincount(y), count)
    order = random.permutation(stream, len(y))
    # classes one after another, each in random order
    by_class = order[torch.argsort(y[order], stable=True)]
    labels = y[by_class]
    first = torch.searchsorted(labels, torch.arange(len(quota)))
    rank = torch.arange(len(y)) - first[labels]
    mask = torch.zeros(len(y), dtype=torch.bool)
    mask[by_class[rank < quota[labels]]] = True
    return mask


def _quotas(counts: Tensor, total: int) -> Tensor:
    """Shares of `total` in proportion to counts [K], as integers that sum to it: the largest
    remainders are rounded up.
    """
    scaled = counts * total
    whole, population = scaled // counts.sum(), int(counts.sum())
    remainders = scaled - whole * population
    missing = total - int(whole.sum())
    up = torch.argsort(remainders, descending=True, stable=True)[:missing]
    whole[up] += 1
    return whole


def partition(
    y: Tensor,
    *,
    val_fraction: float,
    train_limit: int | None,
    seed: int,
    class_names: Sequence[str],
    restriction: Restriction | None = None,
    scores: Callable[[], Tensor] | None = None,
    held: int = 0,
) -> tuple[Tensor, Tensor]:
    """Positions [n_train] and [n_val] of the training and validation split in the training set,
    ascending.

    Args:
        y: [n] int64 labels of the whole training set.
        val_fraction: share that is held out, 0 for none. It is drawn first, from all classes.
        train_limit: samples to keep of what remains, None for all.
        seed: the recipe's.
        class_names: for messages.
        restriction: what is taken away from the training split.
        scores: gives [n] by which a restriction ranks images; called only then, after everything
            else was checked.
        held: the last so many samples are a validation split that the dataset brings.

    Raises:
        UsageError: the fraction holds out nothing, or something beside what the dataset brings, the
            limit is above what there is, or the
            restriction is impossible.
        BadData: a class that is not left out has no sample to train on, or the scores are none.
    """
    restriction = restriction or Restriction()
    if held and val_fraction > 0:
        raise UsageError(
            f"data.val_fraction is {val_fraction:g}, and the data have a validation part of their "
            "own",
            hint="leave data.val_fraction out, or the data's part (the folder val/)",
        )
    if held:
        val = torch.arange(len(y)) >= len(y) - held
    else:
        labelled = _labelled(y)
        held = round(len(labelled) * val_fraction)
        if val_fraction > 0 and held == 0:
            of = f"{len(labelled)} samples" + " with a label" * (len(labelled) < len(y))
            raise UsageError(
                f"data.val_fraction {val_fraction:g} of {of} holds out none",
                hint="raise data.val_fraction",
            )
        val = torch.zeros(len(y), dtype=torch.bool)
        if held:
            val[labelled[sample_by_class(y[labelled], held, random.key(seed, "holdout"))]] = True
    excluded = torch.isin(y, torch.tensor(restriction.exclude, dtype=torch.int64))
    train = torch.nonzero(~val & ~excluded).flatten()
    if held and not len(train):
        raise UsageError(
            f"data.val_fraction {val_fraction:g} of {len(y)} samples leaves none to train on",
            hint="lower data.val_fraction",
        )
    if train_limit is not None:
        if train_limit > len(train):
            raise UsageError(
                f"data.train_limit is {train_limit}, but only {len(train)} samples are there "
                "to train on",
                hint=f"set data.train_limit to {len(train)} at most, or leave it out",
            )
        train = train[sample_by_class(y[train], train_limit, random.key(seed, "limit"))]
    has_label = y[train] != UNLABELLED
    train, rest = train[has_label], train[~has_label]
    if not len(rest):  # pictures without a label may be of any class
        _check_classes(y[train], class_names, restriction.exclude, _more(held, train_limit))
    if restriction.per_class is not None:
        check_sizes(y[train], restriction.per_class, class_names)
        ranks = scores() if restriction.ranked and scores is not None else None
        train = choose(
            y, train, ranks, per_class=restriction.per_class, select=restriction.select, seed=seed
        )
    if len(rest):
        train = torch.cat([train, rest]).sort().values
    return train, torch.nonzero(val).flatten()


def _labelled(y: Tensor) -> Tensor:
    """Positions [m] of what may be held out: what is measured has labels where any picture has."""
    labelled = torch.nonzero(y != UNLABELLED).flatten()
    return labelled if len(labelled) else torch.arange(len(y))


def _more(held: int, train_limit: int | None) -> str:
    """How a class that has no sample left gets one, by what was set."""
    ways = (
        *(["raise data.train_limit"] if train_limit is not None else []),
        *(["lower data.val_fraction"] if held else []),
    )
    return " or ".join(ways) or "remove the class, or add samples of it"


def _check_classes(
    y: Tensor, class_names: Sequence[str], excluded: Container[int], hint: str
) -> None:
    counts = torch.bincount(y, minlength=len(class_names)).tolist()
    empty = [
        name
        for number, name in enumerate(class_names)
        if not counts[number] and number not in excluded
    ]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise BadData(f"class {empty[0]!r}{more} has no training sample", hint=hint)
