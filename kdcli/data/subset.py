"""A training set with parts of it taken away: whole classes, or all but a few images of each class.

The protocols of V. Vats and D. Crandall, Controlling the quality of distillation in response-based
network compression (AAAI workshop 2022), section 4: a class that the student never sees, and n
images a class picked by the entropy of the teacher's soft labels. This module knows no teacher:
whoever calls it brings a score for each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdcli.core import random
from kdcli.errors import BadData, UsageError

Select = Literal["random", "entropy", "entropy-ascending", "stratified"]


@dataclass(frozen=True, slots=True)
class Restriction:
    """A restriction of the training set.

    exclude: numbers of classes of which no image stays. per_class: images of each other class that
    stay, None for all of them.
    select: which ones. "random"; by score, "entropy" the highest, "entropy-ascending" the lowest;
    "stratified": evenly over the ranking by score.
    """

    exclude: tuple[int, ...] = ()
    per_class: int | None = None
    select: Select = "random"

    @property
    def ranked(self) -> bool:
        """Tells whether images are chosen by their scores, which somebody must then compute."""
        return self.per_class is not None and self.select != "random"


def check_sizes(y: Tensor, per_class: int, class_names: Sequence[str]) -> None:
    """Refuses to take more images of a class than it has.

    Args:
        y: [n] int64 labels of what there is to take from. Classes without any are not asked for.
        per_class: how many of each are wanted.
        class_names: [K], for messages.

    Raises:
        UsageError: naming the smallest class and its size.
    """
    sizes = torch.bincount(y, minlength=len(class_names))
    smallest = int(torch.where(sizes > 0, sizes, len(y) + 1).argmin())
    size = int(sizes[smallest])
    if size < per_class:
        raise UsageError(
            f"data.per_class is {per_class}, but class {class_names[smallest]!r} has only "
            f"{size} images to train on",
            hint=(
                f"set data.per_class to {size} at most, or leave the class out with "
                "data.exclude_classes"
            ),
        )


def choose(
    y: Tensor,
    positions: Tensor,
    scores: Tensor | None,
    *,
    per_class: int,
    select: Select,
    seed: int,
) -> Tensor:
    """The same number of images of every class that has any: their positions [m], ascending.

    A random choice of fewer images is part of one of more, and does not depend on which other
    classes there are. Images of equal score stand in the order of their positions.

    Args:
        y: [n] int64 labels of the whole training set.
        positions: [c] int64, ascending: what there is to choose from.
        scores: [n] float, where `select` is not "random".
        per_class: at most the size of the smallest class, see `check_sizes`.
        select: see `Restriction`.
        seed: the recipe's.

    Raises:
        BadData: there is not one finite score an image.
    """
    if select == "random":
        order = torch.argsort(random.bits(random.key(seed, "per class"), positions))
    else:
        order = torch.argsort(
            _checked(scores, len(y))[positions],
            descending=select != "entropy-ascending",
            stable=True,
        )
    labels = y[positions]
    # classes one after another, each in its order
    by_class = positions[order[torch.argsort(labels[order], stable=True)]]
    sizes = torch.bincount(labels)
    starts, sizes = (sizes.cumsum(0) - sizes)[sizes > 0, None], sizes[sizes > 0, None]
    rank = torch.arange(per_class)
    # evenly: the middle of each of `per_class` equal parts of the ranking, in whole numbers
    picked = (2 * rank + 1) * sizes // (2 * per_class) if select == "stratified" else rank
    return by_class[(starts + picked).flatten()].sort().values


def _checked(scores: Tensor | None, n: int) -> Tensor:
    assert scores is not None  # whoever asks for a ranking brings them
    if scores.shape != (n,) or not bool(scores.isfinite().all()):
        raise BadData(
            f"the ranking needs a finite score for each of {n} training images, got "
            f"{list(scores.shape)}",
            hint="the teacher may give NaN or infinite logits: kd evaluate shows how good it is",
        )
    return scores
