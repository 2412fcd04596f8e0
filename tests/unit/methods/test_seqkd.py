"""Sequence-level distillation: what a teacher writes does not depend on how it is asked."""

from __future__ import annotations

import pytest
import torch

from kdcli.core.method import Setup
from kdcli.core.teacher import Ensemble, Teacher
from kdcli.core.types import Batch, DataInfo, Progress
from kdcli.jobs.build.method import make_method
from kdcli.jobs.build.networks import build_network

AT = Progress("distill", 2, 5, 3, 50)


def network(name, seed, **options):
    return build_network(
        name, num_classes=11, input_shape=(1, 1, 1), options=options, seed=seed
    ).eval()


TEACHERS = {"lstm": ("lstm_small", {"embedding": 6, "hidden": 8}), "gpt": ("gpt_small", {"width": 8})}  # fmt: skip


def method(teacher, *, seed=0, **options):
    name, own = TEACHERS[teacher] if isinstance(teacher, str) else (None, {})
    net = Teacher(network(name, 1, **own)) if name else teacher
    zeros = torch.zeros(40, dtype=torch.int64)
    info = DataInfo("t", 11, 40, (1, 1, 1), ("w",) * 11, (0.0,), (1.0,), "", zeros)
    student = network("lstm_small", 2, embedding=4, hidden=4)
    setup = Setup(student, (net,), info, lambda _: student, lambda _: net, lambda x: x, seed)
    return make_method("seqkd", options, setup, given=1)


@pytest.fixture
def window():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        tokens = torch.randint(11, (4, 11))
    index = torch.arange(40)
    return Batch(
        tokens[:, None, None, :-1],
        tokens[:, 1:].flatten(),
        index,
        torch.zeros_like(index),
        window=3,
    )


@pytest.mark.parametrize("teacher", ["lstm", "gpt"])
def test_it_goes_on_from_the_prompt(window, teacher):
    asked = method(teacher, prompt=0.3)
    logits, written = asked._continued(window, AT)
    assert written.shape == (4 * 8,)  # 3 of 10 tokens stay, and the one behind the window is new
    assert logits.shape == (4 * 8, 11)
    again = asked._continued(window, AT)[1]
    assert torch.equal(written, again)
    other = asked._continued(window, Progress("distill", 3, 5, 3, 50))[1]
    assert not torch.equal(written, other)
    # rows are drawn by their place in the text: a share of the minibatch draws the same
    part = Batch(window.x[2:], window.y[20:], window.index[20:], window.view[20:], window=3)
    assert torch.equal(asked._continued(part, AT)[1], written[16:])


def test_a_teacher_that_remembers_writes_what_it_writes_when_it_reads_again(window):
    asked = method("lstm")
    again = method(Ensemble([asked.teacher]))
    assert torch.equal(asked._continued(window, AT)[1], again._continued(window, AT)[1])


def test_the_likeliest_and_the_loss(window):
    step = method("gpt", draw="likeliest", weight=0.25).loss(window, AT)
    assert set(step.losses) == {"ce", "seqkd"}
    assert step.logits.shape == (40, 11)
    # at a temperature near 0 the draws are the likeliest
    cold, sure = method("gpt", temperature=1e-4), method("gpt", draw="likeliest")
    assert torch.equal(cold._continued(window, AT)[1], sure._continued(window, AT)[1])
