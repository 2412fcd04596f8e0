"""The launcher of ranks on this machine: starts, hears and stops them, and says how they ended.

The launcher is no rank itself. It passes the first rank's events on to the listeners and notices
when a rank dies, so that one process speaks, whatever becomes of the others.

torch.distributed.elastic was tried in its place (torch 2.14): it tells a rank's error as text,
without code and hint, logs tracebacks to stderr, hangs where one rank has returned and another
waits for it, and leaves a temporary folder behind. Its agent takes the main thread and the signals,
so that hearing rank 0 and obeying Ctrl-C would go around it, and all of this file but the starting
of processes would remain.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch

from kdcli.engine.distributed import Ranks
from kdcli.errors import Interrupted, KdError, RankLost, Terminated
from kdcli.jobs.events import Event, Listener, Prepared
from kdcli.jobs.processes.child import Child, EventSender, answer_sigterm
from kdcli.jobs.processes.process_group import joined
from kdcli.jobs.processes.signals import StopRequest
from kdcli.recipe.schema import RuntimeSection
from kdcli.surroundings import hush_libraries

_TURN_SECONDS = 0.2  # a signal is passed on that late at most
_GRACE_SECONDS = 10.0  # for the other ranks to end by themselves when one has failed


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The end of a rank's task. error: what it raised, or None. trace: the traceback of that."""

    result: Any = None
    error: KdError | None = None
    trace: str = ""


class _Trace(Exception):
    """The traceback of an error in another process."""


def start(
    section: RuntimeSection,
    task: Callable[..., Any],
    arguments: Mapping[str, Any],
    listeners: Sequence[Listener],
) -> Any:
    """Does a task on ranks that are started for it; returns what it returns on the first.

    Args and errors: see kdcli.jobs.processes.devices.shared.
    """
    count = section.devices
    threads = max((section.threads or torch.get_num_threads()) // count, 1)
    with (
        tempfile.TemporaryDirectory(prefix="kd-ranks-", ignore_cleanup_errors=True) as folder,
        StopRequest("") as stop,
    ):
        ranks: list[Child] = []
        try:
            for rank in range(count):
                given = (rank, f"file://{folder}/meeting", section, threads, task, dict(arguments))
                ranks.append(Child(_rank, *given))
            watch = _Watch(ranks, listeners)
            watch.until_the_end(stop)
        finally:
            for child in ranks:
                child.process.kill()
                child.process.join()
        return watch.verdict(stop)


class _Watch:
    """The launcher's part of the job, until the last rank has ended."""

    def __init__(self, ranks: Sequence[Child], listeners: Sequence[Listener]) -> None:
        self._ranks = ranks
        self._pipes = {child.pipe: rank for rank, child in enumerate(ranks)}
        self._listeners = listeners
        self._outcomes: dict[int, _Outcome] = {}  # in the order in which they came
        self._died: set[int] = set()  # ranks that ended without an outcome, and not by our hand
        self._run: str | None = None

    def until_the_end(self, stop: StopRequest) -> None:
        """Hear the ranks until all have ended, or have had their time to after one that failed."""
        told, deadline = False, float("inf")
        while (
            any(child.process.is_alive() for child in self._ranks) and time.monotonic() < deadline
        ):
            self._hear(_TURN_SECONDS)
            if stop.received and not told:
                told = True
                for child in self._ranks:
                    child.process.terminate()
            if deadline == float("inf") and self._trouble():
                deadline = time.monotonic() + _GRACE_SECONDS
        self._trouble()

    def _hear(self, seconds: float) -> None:
        alive = [child.process.sentinel for child in self._ranks if child.process.is_alive()]
        connection.wait([*self._pipes, *alive], seconds)
        for pipe, rank in list(self._pipes.items()):
            try:
                while pipe.poll():
                    self._take(rank, pipe.recv())
            except (EOFError, OSError):
                del self._pipes[pipe]

    def _take(self, rank: int, message: Event | _Outcome) -> None:
        if isinstance(message, _Outcome):
            self._outcomes[rank] = message
            return
        if isinstance(message, Prepared):
            self._run = message.run
        for listener in self._listeners:
            listener(message)

    def _trouble(self) -> bool:
        """True once a rank has failed."""
        ended = {rank for rank, child in enumerate(self._ranks) if child.process.exitcode}
        self._hear(0)  # what a rank said before it ended
        self._died |= ended - self._outcomes.keys()
        return bool(self._died) or any(
            outcome.error is not None for outcome in self._outcomes.values()
        )

    def verdict(self, stop: StopRequest) -> Any:
        """The result of the first rank, or the error that ended the job."""
        self._hear(0)
        failed = {
            rank: outcome for rank, outcome in self._outcomes.items() if outcome.error is not None
        }
        if stop.received and (failed or self._died):
            self._stopped(stop, failed)
        if self._died:
            self._lost()
        causes = {
            rank: outcome
            for rank, outcome in failed.items()
            if not isinstance(outcome.error, RankLost)
        } or failed
        if causes:
            self._failed(causes)
        return self._outcomes[0].result

    def _stopped(self, stop: StopRequest, failed: Mapping[int, _Outcome]) -> None:
        """Raises that the user stopped the job, unless something else went wrong before."""
        told = next(
            (outcome.error for outcome in failed.values() if isinstance(outcome.error, Terminated)),
            None,
        )
        if told is None and any(
            not isinstance(outcome.error, RankLost) for outcome in failed.values()
        ):
            return
        message, hint = (
            (told.message, told.hint)
            if told is not None
            else ("terminated before training began", None)
        )
        if stop.received == signal.SIGTERM:
            raise Terminated(message, hint=hint)
        raise Interrupted(message.replace("terminated", "interrupted", 1), hint=hint)

    def _lost(self) -> NoReturn:
        rank = min(self._died)
        kept = self._run is not None and any(Path(self._run).glob("state/state-*"))
        hint = f"kd resume {self._run}" if kept else "no state had been saved: start it again"
        how = self._ranks[rank].how_it_ended()
        raise RankLost(f"rank {rank} of {len(self._ranks)} {how}", hint=hint)

    def _failed(self, causes: Mapping[int, _Outcome]) -> NoReturn:
        rank, first = next(iter(causes.items()))
        error = first.error
        assert error is not None
        alike = {str(outcome.error) for outcome in causes.values()} == {str(error)} and len(
            causes
        ) > 1
        if not alike and not isinstance(error, RankLost):  # what all ranks say needs no name
            error.message = f"rank {rank} of {len(self._ranks)}: {error.message}"
        raise error from _Trace(first.trace)


# ---- in a rank -----------------------------------------------------------------------------------


def _rank(
    pipe: Connection,
    rank: int,
    meeting: str,
    section: RuntimeSection,
    threads: int,
    task: Callable[..., Any],
    arguments: Mapping[str, Any],
) -> None:
    """The main function of a rank: does the task beside the others."""
    hush_libraries()
    answer_sigterm(_stop_at_once, patience=6 * _GRACE_SECONDS)
    _be_quiet(first=rank == 0)
    torch.set_num_threads(threads)
    size = str(section.devices)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    try:
        with joined(section, meeting), Ranks.current().noticing():
            listeners = (EventSender(pipe),) if rank == 0 else ()
            outcome = _Outcome(task(**arguments, listeners=listeners))
    except Exception as error:  # noqa: BLE001  the launcher is told, whatever it is
        outcome = _Outcome(
            error=error if isinstance(error, KdError) else KdError.unforeseen(error),
            trace=traceback.format_exc(),
        )
    with contextlib.suppress(OSError):  # the launcher is gone: nobody listens
        pipe.send(outcome if rank == 0 else replace(outcome, result=None))


def _stop_at_once(_number: int, _frame: object) -> NoReturn:
    raise Terminated("terminated before training began")


def _be_quiet(*, first: bool) -> None:
    """Silence stdout, which is the launcher's, and stderr on all ranks but the first."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if not first:
        os.dup2(nowhere, 2)
    os.close(nowhere)
