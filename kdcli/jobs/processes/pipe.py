"""Events on their way from one process to another."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from kdcli.jobs.events import Event, StepDone

READ_SECONDS = 0.5  # losses live on the device, and reading them waits for it


class Teller:
    """Listener that sends what it hears; a step's values are read now and then.

    Args:
        line: to the process that is told. read: a step whose values are numbers, because tensors
            would travel by shared memory.
    """

    def __init__(self, line: Connection, read: Callable[[StepDone], Event]) -> None:
        self._line = line
        self._read = read
        self._read_at = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            now = time.monotonic()
            if now - self._read_at < READ_SECONDS:
                return
            self._read_at = now
            event = self._read(event)
        # nobody listens any more: what remains is to save the state
        with contextlib.suppress(OSError):
            self._line.send(event)
