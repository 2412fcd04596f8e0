"""Child processes: what stops them, and what they say."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdcli.core.types import Progress
from kdcli.jobs.events import StepDone
from kdcli.jobs.processes.child import Child, EventSender
from kdcli.trust import Trusted, trusting
from tests.unit.jobs.processes import child_tasks


@pytest.fixture
def child():
    """Starts a child that is gone after the test."""
    started = []

    def start(main, *arguments, **options):
        started.append(Child(main, *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.join()


def test_ctrl_c_does_not_reach_a_child_and_sigterm_does(child):
    """It may run the files that its parent may."""
    with trusting(["mine.py"]):
        one = child(child_tasks.interrupted, environment={"KD_TEST_OF_CHILDREN": "set"})
    assert one.pipe.recv() == Trusted(frozenset({Path("mine.py").resolve()}))
    assert one.pipe.recv() == "set"
    assert one.pipe.recv() == "not interrupted"
    one.process.terminate()
    assert one.pipe.recv() == signal.SIGTERM
    one.process.join(60)
    assert one.how_it_ended() == "ended with exit code 3"


def test_where_signals_cannot_be_blocked_a_child_ignores_ctrl_c(child, monkeypatch):
    monkeypatch.delattr(signal, "pthread_sigmask", raising=False)
    with trusting(everything=True):
        one = child(child_tasks.interrupted_without_masks)
    assert one.pipe.recv() == Trusted(everything=True)
    assert one.pipe.recv() is None
    assert one.pipe.recv() == "not interrupted"
    one.process.kill()
    one.process.join(60)
    assert one.how_it_ended() == "was killed by SIGKILL"


def test_of_steps_some_are_sent_and_with_numbers():
    sent = []
    sender = EventSender(SimpleNamespace(send=sent.append))
    losses = {"ce": torch.tensor(0.5)}
    step = StepDone(Progress("train", 1, 1, 0, 1), 1, 9, 0.1, losses, torch.tensor(3), 4, 100.0)
    for event in ("first", step, step, "last"):
        sender(event)
    first, read, last = sent  # of two steps at once the first
    assert (first, last) == ("first", "last")
    assert (read.losses, read.correct, read.seen) == ({"ce": 0.5}, 3, 4)
    assert type(read.losses["ce"]) is float
    assert type(read.correct) is int


def test_a_parent_that_is_gone_is_no_failure_of_the_child():
    def closed(_event):
        raise BrokenPipeError

    EventSender(SimpleNamespace(send=closed))("anything")
