"""Child processes: ranks of a run and workers of a sweep, each with a pipe to this process.

Children are spawned, because threads of torch do not survive a fork. Each has a pipe of its own:
with one queue for all, a child that is killed while it writes would silence the others for ever.

A child is stopped by SIGTERM alone. Ctrl-C reaches every process of a terminal, and the parent
decides what it means.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from kdcli import trust
from kdcli.jobs.events import Event, StepDone

READ_SECONDS = 0.5  # losses live on the device, and reading them waits for it
_SPAWN = multiprocessing.get_context("spawn")


# ---- in the parent -------------------------------------------------------------------------------


class Child:
    """A process that this one starts, and this one's end of the pipe between them.

    Args:
        main: a function of a module, called in the child with its end of the pipe and `arguments`.
        environment: variables that libraries of the child read when they are loaded.
    """

    def __init__(
        self,
        main: Callable[..., None],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        # a daemon could have no loader processes
        self.process: SpawnProcess = _SPAWN.Process(
            target=_begin, args=(trust.current(), main, theirs, *arguments), daemon=False
        )
        with _ctrl_c_blocked(), _environment(environment or {}):
            self.process.start()
        theirs.close()  # else nobody would notice that the child has died

    def how_it_ended(self) -> str:
        """The end of a sentence on a process that has ended: what killed it, or its exit code."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {signal.Signals(-code).name}"


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Within, processes are started that Ctrl-C does not reach: a blocked signal stays blocked in a
    child and all its threads.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows: `answer_sigterm` ignores it
        yield
        return
    resource_tracker.ensure_running()  # which begins with the first child, and then lets it through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- in the child --------------------------------------------------------------------------------


def _begin(trusted: trust.Trusted, main: Callable[..., None], *arguments: Any) -> None:
    """Runs the main function of a child, which may run what its parent may."""
    trust.adopt(trusted)
    main(*arguments)


def answer_sigterm(
    handler: Callable[[int, FrameType | None], Any], *, patience: float | None = None
) -> None:
    """Calls a handler on SIGTERM, which this process is sent as well should its parent be killed.

    Args:
        patience: seconds after the parent's death until the process ends, whatever hangs; None
            leaves it all the time it needs.
    """
    signal.signal(signal.SIGTERM, handler)
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        if patience is not None:
            time.sleep(patience)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class EventSender:
    """A listener that sends what it hears to the parent; of the steps, one now and then."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._read_at = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            now = time.monotonic()
            if now - self._read_at < READ_SECONDS:
                return
            self._read_at = now
            event = _with_numbers(event)
        # nobody listens any more: what remains is to save the state
        with contextlib.suppress(OSError):
            self._pipe.send(event)


def _with_numbers(event: StepDone) -> StepDone:
    """A step with numbers for tensors, which would travel by shared memory."""
    losses: Any = {name: float(value) for name, value in event.losses.items()}
    correct: Any = int(event.correct)
    return replace(event, losses=losses, correct=correct)
