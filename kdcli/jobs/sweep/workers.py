"""Worker processes that share one machine, each with its cores and one task after another."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import torch

from kdcli.errors import Interrupted, Terminated
from kdcli.jobs.build import kept
from kdcli.jobs.events import RunEvent, StepDone, StepRead
from kdcli.jobs.processes.child import Child, EventSender, answer_sigterm
from kdcli.jobs.sweep.schedule import Ended, Task, attempt
from kdcli.surroundings import hush_libraries

_PATIENCE = 60.0  # seconds until a worker that should have ended is killed


def machine_cores() -> tuple[int, ...]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of the machine. pin: whether it must keep to the cores."""

    cores: tuple[int, ...]
    threads: int
    pin: bool


# ---- in the worker -------------------------------------------------------------------------------


class _Stop:
    """The handler of SIGTERM: what comes before and after training is left at once; in training,
    which has a handler of its own, the run stops at its next step.
    """

    def __init__(self) -> None:
        self._asked = False
        self._working = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._working:
            raise KeyboardInterrupt  # not an Exception: nobody may take it for a failure of his own

    def guard(self, task: Task, out: Path, pipe: Connection | None) -> Ended:
        """Runs a task, unless SIGTERM has come already."""
        self._working = True
        try:
            if self._asked:
                return Ended("stopped")
            return attempt(task, out, (EventSender(pipe),) if pipe is not None else ())
        except (KeyboardInterrupt, Interrupted, Terminated):
            return Ended("stopped")
        finally:
            self._working = False


def _work(pipe: Connection, share: Share) -> None:
    """The main function of a worker: runs what comes through the pipe, until that is closed."""
    hush_libraries()
    stop = _Stop()
    answer_sigterm(stop)
    if share.pin:
        os.sched_setaffinity(0, share.cores)
    with contextlib.suppress(EOFError, OSError), kept.between_runs():
        while True:
            task, out, tell = pipe.recv()
            torch.set_num_threads(share.threads)  # the task before may have set its own
            pipe.send(stop.guard(task, out, pipe if tell else None))
            gc.collect()
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()  # the others need the room


# ---- in the parent -------------------------------------------------------------------------------


class _Worker(Child):
    """A process, and the task that it is at."""

    def __init__(self, share: Share) -> None:
        super().__init__(_work, share, environment={"OMP_NUM_THREADS": str(share.threads)})
        self.share = share
        self.task: Task | None = None

    def why_it_died(self) -> str:
        """A sentence on a process that ended in the middle of its task."""
        self.process.join(_PATIENCE)
        how = self.how_it_ended()
        reason = (
            ": the system does that where memory runs out, and fewer --jobs need less"
            if how.endswith("SIGKILL")
            else ""
        )
        return f"its process {how}{reason}"

    def end(self, *, at_once: bool) -> None:
        """Ends the process: at once, or after it has saved the state of its task, if it has one."""
        self.pipe.close()
        if at_once or self.task is None:
            self.process.kill()  # torch takes a second to leave in good order
        else:
            self.process.terminate()


class Crew:
    """The workers of one machine. Leaving the context leaves no process behind.

    Args:
        jobs: how many tasks go on at once, at most.
        cores: what they share.
        pin: whether each worker keeps to its part of the cores.
        most_threads: of a worker; no more than its cores in any case.
        out: folder of the runs.
        tell: whether workers send the events of their runs.
    """

    def __init__(
        self,
        jobs: int,
        cores: Sequence[int],
        *,
        pin: bool,
        most_threads: int,
        out: Path,
        tell: bool,
    ) -> None:
        self._jobs = jobs
        self._cores = tuple(cores)
        self._pin = pin
        self._most_threads = most_threads
        self._out = out
        self._tell = tell
        self._workers: list[_Worker] = []
        self._leaving: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        at_once = isinstance(error, KeyboardInterrupt)
        for worker in self._workers:
            worker.end(at_once=at_once)
        everyone = [*self._workers, *self._leaving]
        try:
            end = time.monotonic() + _PATIENCE
            for worker in everyone:
                worker.process.join(max(end - time.monotonic(), 0))
        finally:
            for worker in everyone:
                worker.process.kill()
                worker.process.join()

    @property
    def busy(self) -> tuple[Task, ...]:
        """The tasks that go on now."""
        return tuple(worker.task for worker in self._workers if worker.task is not None)

    def share(self, parts: int) -> Share:
        """The first worker's part where the machine is divided evenly."""
        return self._share(self._cores, len(self._cores) // parts)

    def shares(self, ready: int) -> list[Share]:
        """The parts of the machine at which tasks can begin now, where `ready` of them could.

        Where nothing goes on and less is ready than there are jobs, as with a teacher that all
        cells wait for, that much gets the whole machine: the rest of it would idle.
        """
        at_work = [worker for worker in self._workers if worker.task is not None]
        width = len(self._cores) // (self._jobs if at_work else min(max(ready, 1), self._jobs))
        taken = {core for worker in at_work for core in worker.share.cores}
        free = [core for core in self._cores if core not in taken]
        count = min(ready, self._jobs - len(at_work), len(free) // width)
        return [self._share(free[start * width :], width) for start in range(count)]

    def _share(self, cores: Sequence[int], width: int) -> Share:
        return Share(tuple(cores[:width]), max(min(width, self._most_threads), 1), self._pin)

    def start(self, task: Task, share: Share) -> None:
        """Gives a task to a worker with this share, a new one if there is none."""
        worker = next(
            (worker for worker in self._workers if worker.task is None and worker.share == share),
            None,
        )
        if worker is None:
            for idle in [
                other
                for other in self._workers
                if other.task is None and set(other.share.cores) & set(share.cores)
            ]:
                self._dismiss(idle)
            worker = _Worker(share)
            self._workers.append(worker)
        worker.task = task
        # it died while it had nothing to do: `listen` finds that out
        with contextlib.suppress(OSError):
            worker.pipe.send((replace(task, cell=None), self._out, self._tell))

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._leaving.append(worker)
        worker.end(at_once=False)

    def listen(self, seconds: float) -> Iterator[tuple[Task, RunEvent | Ended]]:
        """The messages of the tasks within some seconds: events, and the end of each. A worker that
        died fails its task.
        """
        pipes = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        for pipe in connection.wait(list(pipes), seconds):
            worker = pipes[pipe]  # type: ignore[index]
            task = worker.task
            assert task is not None
            try:
                message: RunEvent | Ended = worker.pipe.recv()
            except (EOFError, OSError):
                message = Ended("failed", error=worker.why_it_died())
                self._dismiss(worker)
            if isinstance(message, Ended):
                worker.task = None
            elif isinstance(message, StepDone):
                message = _step_read(message)
            yield task, message

    def stop(self) -> None:
        """Asks every task to save its state and end; `listen` tells when each has."""
        for worker in self._workers:
            if worker.task is not None:
                worker.process.terminate()


def _step_read(event: StepDone) -> StepRead:
    """A step, whose values are numbers already, as listeners to several runs hear it."""
    losses = {name: float(value) for name, value in event.losses.items()}
    accuracy = float(event.correct) / event.seen if event.seen else math.nan
    return StepRead(
        event.at, event.batch, event.batches, event.lr, losses, accuracy, event.images_per_second
    )
