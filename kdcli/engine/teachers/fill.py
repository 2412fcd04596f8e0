"""Filling a table of teacher logits as a whole, and how far what it holds is from the teacher's own
answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from kdcli.core import random
from kdcli.core.types import Batch
from kdcli.engine.teachers.cached import CachedTeacher
from kdcli.engine.teachers.row_format import Shape

BatchOf = Callable[[Tensor, Tensor], Batch]  # index and view [B] int64 to a training batch


def fill(
    teacher: CachedTeacher, batch_of: BatchOf, *, chunk: int, done: Callable[[int, int], None]
) -> None:
    """Answers every view that is not stored yet, in the order of the table.

    Args:
        chunk: views at a time.
        done: told the rows stored and their number after each chunk; may raise to stop, what is
            stored stays.
    """
    views = teacher.table.shape.views
    missing = teacher.table.missing()
    total = teacher.table.shape.rows
    for start in range(0, len(missing), chunk):
        rows = missing[start : start + chunk]
        teacher(batch_of(rows // views, rows % views))
        done(total - len(missing) + min(start + chunk, len(missing)), total)


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(teacher's own distribution, stored distribution), nats, both softened by a temperature,
    over `count` rows of a table.
    """

    temperature: float
    mean: float
    max: float
    count: int


def divergence(
    teacher: CachedTeacher,
    batch_of: BatchOf,
    *,
    temperatures: Sequence[float],
    most: int,
    chunk: int,
) -> tuple[Divergence, ...]:
    """The cost of rounding, and of what was left out: stored answers beside those that the teacher
    gives a run that stores none.

    Args:
        temperatures: one result each.
        most: rows to compare, the same ones each time; all if there are no more.
        chunk: rows at a time.
    """
    index, view = _sample(teacher.table.shape, most)

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for at in range(0, len(index), chunk):
            batch = batch_of(index[at : at + chunk], view[at : at + chunk])
            yield teacher.asked(batch).logits, teacher(batch).logits

    return by_temperature(pairs(), temperatures)


def by_temperature(
    pairs: Iterable[tuple[Tensor, Tensor]], temperatures: Sequence[float]
) -> tuple[Divergence, ...]:
    """How far stored answers are from the teacher's own: pairs of those and these, [B,K] each."""
    parts = [
        [_divergence(own, stored, temperature) for temperature in temperatures]
        for own, stored in pairs
    ]
    return tuple(
        Divergence(temperature, float(each.mean()), float(each.max()), len(each))
        for temperature, each in zip(
            temperatures, (torch.cat(column) for column in zip(*parts, strict=True)), strict=True
        )
    )


def _sample(shape: Shape, most: int) -> tuple[Tensor, Tensor]:
    """Index and view [m] int64 of some rows."""
    numbers = torch.arange(min(most, shape.rows))
    if shape.rows <= most:
        return numbers // shape.views, numbers % shape.views
    draws = [
        random.integers(random.key(0, purpose), numbers, high)
        for purpose, high in (("image", shape.samples), ("view", shape.views))
    ]
    return draws[0], draws[1]


def _divergence(own: Tensor, stored: Tensor, temperature: float) -> Tensor:
    # in float64, since what rounding to float16 costs is of the size of float32's own error
    p, q = (log_softmax(logits.double() / temperature, dim=1) for logits in (own, stored))
    return kl_div(q, p, reduction="none", log_target=True).sum(1)
