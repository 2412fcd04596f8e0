"""Ctrl-C, SIGTERM and SIGUSR1: the first stops a run at its next step, a second Ctrl-C stops it at
once, and so does a step that does not end.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from kdcli.errors import Interrupted, KdError, Terminated

# from a signal to the end of the step, at most: then what the step waits for, such as a file on a
# machine that is gone, is waited for no longer
PATIENCE_SECONDS = 60.0
_HAS_TIMERS = hasattr(signal, "setitimer")  # Windows has not
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class StopRequest:
    """A context in which SIGINT, SIGTERM and SIGUSR1, which schedulers send some time before they
    end a job, are requests that the trainer reads between steps.

    Args:
        again: the command that goes on from there, for the hint.
        kept: what is not lost, for the message.
        agree: the largest of all ranks' signals from that of this one, so that all stop at the same
            step.
    """

    def __init__(
        self, again: str, *, kept: str = "the state is saved", agree: Callable[[int], int] = int
    ) -> None:
        self._again = again
        self._kept = kept
        self._agree = agree
        self._signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        # Python delivers signals there only
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wait_no_longer()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = number
            if _HAS_TIMERS:
                self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._overdue)
                signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
        # a person is in a hurry; a second SIGTERM is only a scheduler that tells every process
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _overdue(self, _number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def _wait_no_longer(self) -> None:
        if _HAS_TIMERS:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @property
    def received(self) -> int | None:
        """The first signal that this process was sent, or None."""
        return self._signal

    def __call__(self) -> KdError | None:
        """The error to stop with, or None."""
        number = self._agree(self._signal or 0)
        if not number:
            return None
        self._wait_no_longer()  # what comes now, such as saving the state, takes its time
        return self._error(number, self._kept)

    def in_a_step(self) -> KdError:
        """The error of a job that a signal ended before its step was done: by a second Ctrl-C,
        because it took too long, or because the first reached a process that the step needed, such
        as a compiler.
        """
        return self._error(self._signal or signal.SIGINT, "what was saved before is kept")

    def _error(self, number: int, kept: str) -> KdError:
        if number != signal.SIGINT:
            return Terminated(f"terminated; {kept}", hint=self._again)
        return Interrupted(f"interrupted; {kept}", hint=self._again)
