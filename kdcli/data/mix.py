"""Mixtures of the pictures of a minibatch: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

Each picture is mixed with the one before it in the minibatch, whose order is random; the first with
the last. So a rank that sees a part of a minibatch needs one picture more, and the mixture is the
same on any number of ranks. One share holds for the minibatch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from kdcli.core import random
from kdcli.core.mixed_labels import Mixed
from kdcli.core.types import Batch


class Mix(NamedTuple):
    """How a minibatch is mixed. share: of each picture in its mixture. box: of CutMix, the part
    that is the other picture's: top, left, bottom, right, as shares of the sides; None for mixup.
    """

    share: float
    box: tuple[float, float, float, float] | None = None


def draw(stream: int, mixup: float, cutmix: float, size: tuple[int, int]) -> Mix:
    """The mixture of a minibatch: a function of the key alone.

    Args:
        mixup, cutmix: alpha of Beta(alpha, alpha), from which the share is drawn, or 0; one of the
            two by chance where both are above 0. size: height and width of the pictures.
    """
    cuts = cutmix > 0 and (mixup == 0 or random.uniform_int(stream, 0) < 0.5)
    share = beta(random.key(0, "share", stream), cutmix if cuts else mixup)
    if not cuts:
        # the larger part is the picture's own: the same mixtures, by symmetry
        return Mix(max(share, 1 - share))
    height, width = size
    middle = [random.integers_int(stream, 1 + axis, side) for axis, side in enumerate(size)]
    # sides of the box in proportion, so that its area is 1 - share, before it is cut at the edge
    reach = [int(math.sqrt(1 - share) * side / 2) for side in size]
    top, left = (max(at - by, 0) for at, by in zip(middle, reach, strict=True))
    bottom, right = (min(at + by, side) for at, by, side in zip(middle, reach, size, strict=True))
    area = (bottom - top) * (right - left) / (height * width)
    return Mix(1 - area, (top / height, left / width, bottom / height, right / width))


def beta(stream: int, alpha: float) -> float:
    """A number from Beta(alpha, alpha), by Johnk's method: X / (X + Y) with X = U^(1/alpha) and Y
    = V^(1/alpha), drawn again until X + Y is 1 at most.
    """
    counter = 0
    while True:
        # in (0, 1]; logarithms, since the powers are too small for floats where alpha is
        x, y = (
            math.log(1 - random.uniform_int(stream, counter + place)) / alpha for place in range(2)
        )
        largest = max(x, y)
        total = largest + math.log(math.exp(x - largest) + math.exp(y - largest))
        if total <= 0:
            return math.exp(x - total)
        counter += 2


def mixed(batch: Batch, how: Mix, *, led: bool) -> Batch:
    """A minibatch whose every picture is mixed with the one before it.

    Args:
        led: whether its first picture is there for the second alone, and is left out.
    """
    made = batch.pictures(lambda x: _of_two(x, x.roll(1, 0), how))
    made = replace(made, mixed=Mixed(batch.y.roll(1, 0), how.share))
    return made.each(lambda rows: rows[1:]) if led else made


def _of_two(x: Tensor, others: Tensor, how: Mix) -> Tensor:
    if how.box is None:
        return how.share * x + (1 - how.share) * others
    height, width = x.shape[2:]
    top, left, bottom, right = (
        round(part * side)
        for part, side in zip(how.box, (height, width, height, width), strict=True)
    )
    cut = x.clone()
    cut[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return cut
