"""Records of stored teacher logits: what a table holds, and how far from the teacher its answers
are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredError:
    """How far stored answers are from the teacher's own, softened by a temperature: KL(own, stored)
    in nats over `count` of them.
    """

    temperature: float
    mean: float
    max: float
    count: int


@dataclass(frozen=True, slots=True)
class StoredLogits:
    """A table of teacher logits on disk. rows: images times views; stored: how many of them it
    holds.

    top: how many of an answer's logits are stored, None for all. error: what that and float16 cost,
    measured on a filled table. sample: what a row answers. left_out: the share of the probability
    that what is not stored has at temperature 1, mean over all rows; bound: nats that KL(own,
    stored) is at most for it there, of any row, besides the rounding; None where all is stored.
    """

    teacher: str
    path: str
    images: int
    views: int
    classes: int
    bytes: int
    stored: int
    top: int | None = None
    error: tuple[StoredError, ...] = ()
    sample: str = "image"
    left_out: float | None = None
    bound: float | None = None

    @property
    def rows(self) -> int:
        return self.images * self.views


@dataclass(frozen=True, slots=True)
class CacheResult:
    """The `data` of `kd cache --json`."""

    tables: tuple[StoredLogits, ...]
