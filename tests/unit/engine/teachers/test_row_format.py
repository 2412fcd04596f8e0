"""Rows of a table of teacher logits: what comes back is what was put in, and what is left out is
what the text says.
"""

from __future__ import annotations

import pytest
import torch

from kdcli.core import random
from kdcli.engine.teachers.row_format import Shape, marks


def logits(rows: int, classes: int) -> torch.Tensor:
    return (
        random.uniform(random.key(0, "logits"), torch.arange(rows * classes)).view(rows, classes)
        * 12
        - 6
    )


def test_all_logits_come_back_rounded() -> None:
    shape, given = Shape(4, 2, 7), logits(5, 7)
    assert torch.equal(shape.unpack(shape.pack(given)), given.half().float())
    assert (shape.words, shape.bytes) == (7, 8 * (2 * 7 + 4))


def test_the_largest_keep_their_probabilities_and_the_others_their_sum() -> None:
    shape, given = Shape(4, 2, 100, top=5), logits(50, 100)
    own, back = (values.double().softmax(1) for values in (given, shape.unpack(shape.pack(given))))
    largest = given.topk(5).indices
    torch.testing.assert_close(back.gather(1, largest), own.gather(1, largest), rtol=4e-3, atol=0)
    torch.testing.assert_close(
        1 - back.gather(1, largest).sum(1), 1 - own.gather(1, largest).sum(1), rtol=4e-3, atol=0
    )
    others = back.scatter(1, largest, 0)
    assert all(len(row.unique()) == 2 for row in others), (
        "zero, where the largest were, and one share for all others"
    )
    assert (shape.words, shape.bytes) == (11, 8 * (2 * 11 + 4))


def test_another_temperature_moves_the_sum_of_the_others() -> None:
    """The text says so; if this fails, the text is too modest."""
    shape, given = Shape(4, 2, 100, top=5), logits(50, 100)
    rest = [
        1 - values.div(4).softmax(1).topk(5).values.sum(1)
        for values in (given, shape.unpack(shape.pack(given)))
    ]
    assert (rest[0] - rest[1]).abs().max() > 0.01


@pytest.mark.parametrize("classes", [40_000, 65_536])
def test_a_class_of_any_number_comes_back(classes: int) -> None:
    given = torch.zeros(2, classes)
    given[0, -1], given[1, classes // 2] = 9.0, 8.0
    shape = Shape(1, 2, classes, top=1)
    assert shape.unpack(shape.pack(given)).argmax(1).tolist() == [classes - 1, classes // 2]


def test_the_mark_of_a_row_follows_each_word_and_its_place() -> None:
    words = Shape(1, 1, 9).pack(logits(1, 9))
    changed = words.repeat(17, 1)
    for at in range(9):
        changed[at, at] ^= 1
    for at in range(8):
        changed[9 + at, [at, at + 1]] = changed[9 + at, [at + 1, at]]
    assert not bool((marks(changed) == marks(words)).any())
    assert marks(torch.zeros(1, 9, dtype=torch.int16)).tolist() == [1], (
        "an empty row has a mark too, other than that of no row"
    )
