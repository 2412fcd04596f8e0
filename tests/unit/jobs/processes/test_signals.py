"""A signal is a request first; what waits for ever is waited for no longer."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from kdcli.errors import Interrupted, Terminated
from kdcli.jobs.processes import signals
from kdcli.jobs.processes.signals import StopRequest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, Interrupted),
        (signal.SIGTERM, Terminated),
        (
            getattr(signal, "SIGUSR1", signal.SIGTERM),
            Terminated,
        ),  # Slurm's, some time before it ends a job
    ],
)
def test_the_first_signal_is_a_request_and_no_timer_runs_once_it_was_heard(number, error):
    before = signal.getsignal(number)
    with StopRequest("kd resume runs/x") as stop:
        assert stop() is None
        os.kill(os.getpid(), number)
        assert stop.received == number
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        assert isinstance(stop(), error)
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(number) is before


def test_a_wait_that_does_not_end_ends_after_a_while(tmp_path, monkeypatch):
    """Nobody ever writes to the pipe, so that to open it would take for ever."""
    monkeypatch.setattr(signals, "PATIENCE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    with StopRequest("kd resume runs/x") as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            (tmp_path / "pipe").open("rb")
        assert isinstance(stop.in_a_step(), Terminated)
    assert time.monotonic() - began < 10
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_second_ctrl_c_is_no_request(tmp_path):
    with StopRequest("kd resume runs/x") as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.received == signal.SIGTERM
