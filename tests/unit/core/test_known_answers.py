"""What a teacher has answered before is the same to the bit, and whatever else is asked again."""

from __future__ import annotations

import pytest
import torch

from kdcli.core.known_answers import KnownAnswers
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output
from kdcli.jobs import build_network


@pytest.fixture
def teacher():
    network = build_network("resnet8", num_classes=5, input_shape=(3, 8, 8))
    made = Teacher(network)
    made.known = KnownAnswers(2**20)
    return made


def _batch(x):
    index = torch.arange(len(x))
    return Batch(x, index, index, torch.zeros_like(index))


def _count(network):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_pictures_that_were_asked_about_are_not_asked_about_again(teacher):
    calls = _count(teacher.network)
    x = torch.randn(6, 3, 8, 8)
    plain = teacher(_batch(x), ("pooled",))
    asked = [teacher.of("test")(_batch(x.clone()), ("pooled",)) for _ in range(2)]
    assert len(calls) == 2
    for each in asked:
        assert torch.equal(each.logits, plain.logits)
        assert torch.equal(each.taps["pooled"], plain.taps["pooled"])
    # whoever writes to an answer writes to his own
    asked[0].logits.zero_()
    assert torch.equal(teacher.of("test")(_batch(x), ("pooled",)).logits, plain.logits)


def test_training_neither_reads_nor_fills_it(teacher):
    calls = _count(teacher.network)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(3):
        teacher.live(_batch(x))
    assert len(calls) == 3


@pytest.mark.parametrize("other", ["a pixel", "a tap", "the layout", "autocast", "threads"])
def test_what_may_change_a_bit_of_an_answer_is_another_question(teacher, other):
    calls = _count(teacher.network)
    x = torch.randn(4, 3, 8, 8)
    measured = teacher.of("test")
    measured(_batch(x))
    threads = torch.get_num_threads()
    try:
        if other == "a pixel":
            x = x.clone()
            x[3, 2, 7, 7] += 1e-6
        if other == "the layout":
            x = x.to(memory_format=torch.channels_last)
        if other == "threads":
            torch.set_num_threads(threads + 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=other == "autocast"):
            measured(_batch(x), ("pooled",) if other == "a tap" else ())
    finally:
        torch.set_num_threads(threads)
    assert len(calls) == 2


def test_only_pictures_that_were_not_asked_about_are_asked_about(teacher):
    asked = []
    teacher.network.register_forward_hook(lambda _, given, __: asked.append(given[0]))
    x = torch.randn(6, 3, 8, 8)
    measured = teacher.of("test")
    measured(_batch(x))
    other = torch.cat([x[4:5], torch.randn(2, 3, 8, 8), x[:3]])
    found = measured(_batch(other)).logits
    # in a batch of the same shape, which an answer's bits may depend on
    assert [len(each) for each in asked] == [6, 6]
    assert torch.equal(asked[1][:2], other[1:3])
    assert not asked[1][2:].any()
    assert torch.equal(found, teacher(_batch(other)).logits)


def test_where_they_have_no_room_all_are_forgotten_and_no_more_kept():
    known, asked = KnownAnswers(100), []

    def answer(x):
        def ask(places):
            asked.append(x)
            return Output(torch.full((len(places), 10), float(x)), {})

        return known.answer(ask, torch.full((1, 1), float(x)), ()).logits[0, 0].item()

    # two have room
    assert [answer(x) for x in (1, 1, 2, 2)] == [1, 1, 2, 2]
    assert asked == [1, 2]
    assert [answer(x) for x in (3, 3, 1, 1)] == [3, 3, 1, 1]
    assert asked == [1, 2, 3, 3, 1, 1]
