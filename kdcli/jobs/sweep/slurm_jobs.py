"""Tasks of a sweep as jobs of a Slurm cluster, by submitit.

What begins at once is one array. A job that Slurm takes its place from (SIGTERM, or SIGUSR1 some
time before its end) saves its state, and is queued again; it goes on from there. How a task ended
it says in a file of the folder of the runs, which every machine has to share: no pickle is read
back.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from kdcli import trust
from kdcli.errors import CorruptFile, Interrupted, Terminated, UsageError
from kdcli.files import read_json, write_json
from kdcli.jobs.events import RunEvent
from kdcli.jobs.sweep.schedule import Ended, Task, attempt
from kdcli.surroundings import hush_libraries
from kdcli.typed import from_dict

CLUSTER = "slurm"  # "local" runs the same on this machine: for tests
FOLDER = ".slurm"
_STOP = "stop"  # a file: jobs that end now are not queued again
_DAY = 24 * 60  # minutes that a job may take, unless its options say otherwise
_TIMEOUTS = 1000  # times that it may run out of them
_WARNING_SECONDS = 90  # before that, in which it saves its state
_POLL_SECONDS = 2.0

# what SIGUSR1 means to submitit, which reads this when it is imported, here and in the jobs
_PREEMPT = {"SUBMITIT_PREEMPT_SIGNAL": "USR1"}


class Job:
    """What a job does; submitit calls it, and `checkpoint` where it is to be queued again."""

    def __init__(self, task: Task, out: Path, says: Path, trusted: trust.Trusted) -> None:
        self.task = task
        self.out = out
        self.says = says
        self.trusted = trusted

    def __call__(self) -> None:
        hush_libraries()
        trust.adopt(self.trusted)
        signal.signal(signal.SIGTERM, _queue_again)
        try:
            ended = attempt(self.task, self.out)
        except (Interrupted, Terminated):
            if not (self.says.parent / _STOP).exists():
                signal.raise_signal(signal.SIGUSR1)  # submitit's handler queues it again and exits
            ended = Ended("stopped")
        write_json(self.says, ended)

    def checkpoint(self) -> Any:
        """The same job: its run goes on from its state."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _queue_again(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM before a run has begun or after it."""
    signal.raise_signal(signal.SIGUSR1)


class SlurmJobs:
    """An executor (kdcli.jobs.sweep.executor) whose tasks are jobs of Slurm.

    Args:
        most: jobs that run at once. out: folder of the runs, on a disk that all machines share.
        cpus, gpus: of each job. options: of sbatch, such as partition and time, by name.

    Raises:
        UsageError: there is no Slurm here, submitit is not installed, or it knows no such option.
    """

    def __init__(
        self, most: int, out: Path, *, cpus: int, gpus: int, options: Mapping[str, str]
    ) -> None:
        os.environ.update(_PREEMPT)
        try:
            import submitit
        except ImportError as error:
            raise UsageError(
                "--executor slurm needs submitit, which is not installed",
                hint="pip install 'kdcli[slurm]'",
            ) from error
        if CLUSTER == "slurm" and shutil.which("sbatch") is None:
            raise UsageError(
                "there is no Slurm on this machine: sbatch is not found",
                hint="run it where jobs are submitted, or leave --executor out",
            )
        self._most = most
        self._out = out
        self._folder = out / FOLDER / uuid.uuid4().hex[:12]
        self._folder.mkdir(parents=True, mode=0o700)
        minutes = _minutes(options.get("time", str(_DAY)))
        own = {f"slurm_{name}": value for name, value in options.items() if name != "time"}
        slurm = {"slurm_array_parallelism": most, "slurm_signal_delay_s": _WARNING_SECONDS}
        try:
            self._executor = submitit.AutoExecutor(
                self._folder / "%j", cluster=CLUSTER, slurm_max_num_timeout=_TIMEOUTS
            )
            self._executor.update_parameters(
                timeout_min=minutes,
                cpus_per_task=cpus,
                gpus_per_node=gpus,
                **(slurm if CLUSTER == "slurm" else {}),
                **own,
            )
        except (ValueError, NameError, TypeError, RuntimeError) as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            text = str(error).strip().partition("\n")[0]
            raise UsageError(f"--slurm: {text}", hint="--slurm partition=NAME") from error
        self._waiting: list[Task] = []
        self._jobs: dict[str, tuple[Task, Any]] = {}  # by the key of the task
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.clear()
        if self._jobs:
            self.stop()
        if error is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def busy(self) -> tuple[Task, ...]:
        return (*self._waiting, *(task for task, _ in self._jobs.values()))

    def shares(self, ready: int) -> Sequence[Any]:
        return [None] * min(ready, self._most - len(self.busy))

    def start(self, task: Task, share: Any) -> None:  # noqa: ARG002  Slurm finds the place
        """Puts a task into the array that `listen` submits."""
        self._waiting.append(task)

    def listen(self, seconds: float) -> Iterator[tuple[Task, RunEvent | Ended]]:
        """The tasks that have ended; submits what waits first."""
        self._submit()
        time.sleep(max(seconds, _POLL_SECONDS if CLUSTER == "slurm" else 0.0))
        for key, (task, job) in list(self._jobs.items()):
            says = self._says(task)
            if not says.exists() and not job.done():
                continue
            del self._jobs[key]
            yield task, self._ended(says, job)

    def _submit(self) -> None:
        tasks, self._waiting = self._waiting, []
        if not tasks:
            return
        jobs = []
        with self._executor.batch():
            for task in tasks:
                call = Job(replace(task, cell=None), self._out, self._says(task), trust.current())
                jobs.append((task, self._executor.submit(call)))
        self._jobs |= {task.key: (task, job) for task, job in jobs}

    def _says(self, task: Task) -> Path:
        until = "" if task.until is None else f"-{task.until}"
        return self._folder / f"{task.key}{until}.json"

    def _ended(self, says: Path, job: Any) -> Ended:
        # the file may come later than the news, over a network
        end = time.monotonic() + 10 * _POLL_SECONDS
        while not says.exists() and not self._stopped and time.monotonic() < end:
            time.sleep(_TURN)
            if CLUSTER != "slurm":
                break
        if not says.exists():
            if self._stopped:
                return Ended("stopped")
            return Ended(
                "failed", error=f"its job {job.job_id} ended without a word: {self._folder}"
            )
        try:
            return from_dict(Ended, read_json(says), says)
        except CorruptFile as error:
            return Ended("failed", error=error.message)

    def stop(self) -> None:
        """Cancels the jobs: Slurm sends SIGTERM, and each saves its state."""
        (self._folder / _STOP).touch()
        self._stopped = True
        self._waiting.clear()
        for _, job in self._jobs.values():
            job.cancel(check=False)


_TURN = 0.1


def _minutes(text: str) -> int:
    """A number of minutes, or Slurm's [D-]HH:MM:SS.

    Raises:
        UsageError: it is neither.
    """
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, days or "0")) or len(parts) > 3:
        raise UsageError(f"--slurm time={text}: not minutes or HH:MM:SS", hint="--slurm time=120")
    numbers = [int(part) for part in parts]
    if len(parts) == 1 and not days:
        return max(numbers[0], 1)
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return max(int(days or 0) * _DAY + hours * 60 + minutes + (seconds > 0), 1)
