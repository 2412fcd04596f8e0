"""Which samples a network answers wrongly, and which of them to look at first. Pure functions on
logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdcli.results.mistakes import Kind


@dataclass(frozen=True, slots=True)
class Chosen:
    """Samples that are answered wrongly in one way.

    n: how many there are. by_class: by class, how many there are of it, and the places of those to
    show, the surest first. places: of those to show, where classes do not matter.
    """

    kind: Kind
    n: int
    by_class: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    places: tuple[int, ...] = ()


def confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The probability [n] of the class that each sample is taken for, at temperature 1, and the
    class [n], from logits [n,K].
    """
    highest = logits.double().softmax(dim=1).max(dim=1)
    return highest.values, highest.indices


def choose_mistakes(
    own: Tensor, teacher: Tensor | None, targets: Tensor, most: int
) -> Iterator[Chosen]:
    """Mistakes by kind: those that the teacher does not make, those that it makes too, and, of all
    of them, those of which the network is surest.

    Within a kind every class has its turn, the surest mistakes of each first, until there are
    `most`.

    Args:
        own, teacher: logits [n,K]; without a teacher the first two kinds are one, "wrong".
        targets: [n]; what is below 0 has no label, and is no mistake.
        most: samples of each kind to choose.
    """
    sure, said = confidence(own)
    wrong = (said != targets) & (targets >= 0)
    kinds: list[tuple[Kind, Tensor]] = [("wrong", wrong)]
    if teacher is not None:
        right = teacher.argmax(dim=1) == targets
        kinds = [("teacher-right", wrong & right), ("both-wrong", wrong & ~right)]
    for kind, rows in kinds:
        places = _surest_first(rows, sure)
        if places:
            yield Chosen(kind, len(places), _in_turns(places, targets.tolist(), most))
    if places := _surest_first(wrong, sure):
        yield Chosen("surest", len(places), places=tuple(places[:most]))


def _surest_first(rows: Tensor, sure: Tensor) -> list[int]:
    places = rows.nonzero().flatten()
    # stable: of two that are equally sure, the one that comes first
    order = torch.sort(sure[places], descending=True, stable=True).indices
    return [int(place) for place in places[order]]


def _in_turns(
    places: list[int], targets: list[int], most: int
) -> dict[int, tuple[int, tuple[int, ...]]]:
    """By class, in class order: how many there are, and those that are chosen."""
    waiting: dict[int, list[int]] = {}
    rank = {place: number for number, place in enumerate(places)}
    for place in places:
        waiting.setdefault(targets[place], []).append(place)
    longest = max(map(len, waiting.values()))
    turns = [
        place
        for turn in range(longest)
        # within a turn the surest first, so that few go to the classes that need them most
        for place in sorted(
            (of_class[turn] for of_class in waiting.values() if turn < len(of_class)),
            key=rank.__getitem__,
        )
    ]
    chosen = set(turns[:most])
    return {
        number: (len(of_class), tuple(place for place in of_class if place in chosen))
        for number, of_class in sorted(waiting.items())
    }
