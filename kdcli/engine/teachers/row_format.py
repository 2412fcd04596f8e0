"""The format of a stored answer of a teacher: a row of 16-bit words, and a mark that says whether
the row is whole.

All logits as float16; or, where there are many classes, the k largest with their classes and the
logsumexp of the rest, whose mass is then spread evenly over the other classes when the row is read.
At temperature 1 that keeps the k largest probabilities and the sum of the others, but for the
rounding; how the others share that sum, and with it what they weigh at another temperature, is
lost. With r the share of the others at temperature 1 and H the entropy of how they share it,

    KL(own, stored) = r (log(K - k) - H) <= r log(K - k)

nats, besides the rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

MOST_CLASSES_OF_TOP = 1 << 16  # a class is one word
_MARKS = (1 << 31) - 1  # marks run from 1 to this
_WEIGHT = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass(frozen=True, slots=True)
class Shape:
    """n samples, V views of each, K classes, of which the `top` largest logits are stored, or
    all.
    """

    samples: int
    views: int
    classes: int
    top: int | None = None

    @property
    def rows(self) -> int:
        return self.samples * self.views

    @property
    def words(self) -> int:
        """16-bit words a row."""
        return self.classes if self.top is None else 2 * self.top + 1

    @property
    def bytes(self) -> int:
        """Size of a table on disk, but for its header."""
        return self.rows * (2 * self.words + 4)

    def pack(self, logits: Tensor) -> Tensor:
        """Logits [B,K] of any float type as words [B,W] int16, on the same device."""
        if self.top is None:
            return logits.half().view(torch.int16)
        values, classes = logits.float().topk(self.top, dim=1)
        rest = logits.float().scatter(1, classes, -math.inf).logsumexp(1, keepdim=True)
        # a class above 32767 wraps around, and comes back when it is read
        return torch.cat(
            [
                values.half().view(torch.int16),
                classes.to(torch.int16),
                rest.half().view(torch.int16),
            ],
            1,
        )

    def unpack(self, words: Tensor) -> Tensor:
        """Words [B,W] int16 as logits [B,K] float32, on the same device and without waiting for
        it.
        """
        if self.top is None:
            return words.view(torch.float16).float()
        values, classes, rest = words[:, : self.top], words[:, self.top : -1], words[:, -1:]
        each = rest.view(torch.float16).float() - math.log(self.classes - self.top)
        return each.expand(-1, self.classes).scatter(
            1, classes.view(torch.uint16).long(), values.view(torch.float16).float()
        )

    def rest(self, words: Tensor) -> Tensor:
        """The share of the probability that the others have, [B] float64, of words [B,W] of the
        largest.
        """
        assert self.top is not None
        values = torch.cat([words[:, : self.top], words[:, -1:]], 1).view(torch.float16).double()
        return values.softmax(1)[:, -1]


def marks(words: Tensor) -> Tensor:
    """A number from 1 to 2^31 - 1 for each row [B,W] int16, as int32 [B]; places count, so that a
    half-written row shows.
    """
    mixed = (words.view(torch.uint16).long() * _weights(words.shape[1], words.device)).sum(1)
    return (((mixed >> 32) & 0xFFFFFFFF) % _MARKS + 1).to(torch.int32)


@cache
def _weights(places: int, device: torch.device) -> Tensor:
    return torch.arange(1, places + 1, device=device) * _WEIGHT
