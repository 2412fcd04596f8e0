"""Mistakes by kind, by class in turns, the surest first."""

from __future__ import annotations

import torch

from kdcli.analysis.mistakes import choose_mistakes


def answers(classes: list[int], sure: list[float], count: int = 3) -> torch.Tensor:
    """Logits of networks that are so sure of these classes."""
    logits = torch.zeros(len(classes), count)
    logits[range(len(classes)), classes] = torch.tensor(sure)
    return logits


#          0  1  2  3  4  5  6
TARGETS = torch.tensor([0, 0, 0, 1, 1, 2, -1])
OWN = answers([0, 1, 2, 0, 0, 0, 1], [5.0, 1.0, 3.0, 2.0, 9.0, 4.0, 8.0])
TEACHER = answers([0, 0, 1, 1, 1, 0, 1], [1.0] * 7)


def test_every_mistake_has_one_kind_and_what_has_no_label_is_none():
    right, both, surest = choose_mistakes(OWN, TEACHER, TARGETS, 10)
    assert (right.kind, right.n, right.by_class) == (
        "teacher-right",
        3,
        {0: (1, (1,)), 1: (2, (4, 3))},
    )
    assert (both.kind, both.n, both.by_class) == ("both-wrong", 2, {0: (1, (2,)), 2: (1, (5,))})
    assert (surest.kind, surest.n, surest.places) == ("surest", 5, (4, 5, 2, 3, 1))


def test_classes_have_their_turns():
    (wrong, surest) = choose_mistakes(OWN, None, TARGETS, 3)
    assert wrong.kind == "wrong"
    # one of each class before a second one; how many there are is counted all the same
    assert wrong.by_class == {0: (2, (2,)), 1: (2, (4,)), 2: (1, (5,))}
    assert surest.places == (4, 5, 2)
    (few, _) = choose_mistakes(OWN, None, TARGETS, 2)
    assert few.by_class == {0: (2, ()), 1: (2, (4,)), 2: (1, (5,))}, "the surest of the turn"


def test_a_network_that_is_always_right_has_none():
    assert list(choose_mistakes(TEACHER[:2], TEACHER[:2], TARGETS[:2], 5)) == []
