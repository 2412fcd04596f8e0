"""Child processes that do a job's work: ranks and the workers of a sweep.

A child is stopped by SIGTERM alone: Ctrl-C reaches every process of a terminal, and the parent
decides what it means. It ends with its parent, and tells it what happens through a pipe of its own:
with one for all, a child that is killed while it writes would silence the others for ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from kdcli.jobs.events import Event, StepDone

READ_SECONDS = 0.5  # losses live on the device, and reading them waits for it


@contextlib.contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Start processes within that Ctrl-C does not reach: a blocked signal stays blocked in a child
    and all its threads.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no signal masks
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_the_parent(patience_seconds: float | None = None) -> None:
    """Have this process save its state and end, should its parent be killed.

    Args:
        patience_seconds: after which it ends whatever hangs; never unless given.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        if patience_seconds is not None:
            time.sleep(patience_seconds)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class EventSender:
    """Listener that sends what it hears to the parent; a step's values are read now and then.

    Args:
        line: to the process that is told.
        convert: makes what is sent of a step whose values are numbers; tensors would travel by
            shared memory.
    """

    def __init__(
        self, line: Connection, convert: Callable[[StepDone], Event] = lambda event: event
    ) -> None:
        self._line = line
        self._convert = convert
        self._read_at = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            now = time.monotonic()
            if now - self._read_at < READ_SECONDS:
                return
            self._read_at = now
            event = self._convert(_in_numbers(event))
        # nobody listens any more: what remains is to save the state
        with contextlib.suppress(OSError):
            self._line.send(event)


def _in_numbers(event: StepDone) -> StepDone:
    losses: Any = {name: float(value) for name, value in event.losses.items()}
    correct: Any = int(event.correct)
    return replace(event, losses=losses, correct=correct)
