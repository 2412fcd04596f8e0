"""What runs the tasks of a sweep or a search: processes of this machine, or others' machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import torch

from kdcli.engine.hardware import choose_device
from kdcli.errors import UsageError
from kdcli.jobs.events import Listener, RunEvent
from kdcli.jobs.sweep.schedule import Ended, Task, attempt
from kdcli.jobs.sweep.workers import Crew, machine_cores
from kdcli.recipe.resolve import Resolved

Jobs = int | Literal["auto"]
Kind = Literal["processes", "slurm", "ray"]
KINDS: tuple[Kind, ...] = ("processes", "slurm", "ray")
MOST_JOBS = 10_000  # that a cluster is given at once


@dataclass(frozen=True, slots=True)
class Place:
    """Where tasks run. cpus, gpus: of each on a cluster; fractions on Ray alone. slurm: options of
    sbatch by name. address: of a Ray cluster, "auto" for the one that this machine is of.
    """

    kind: Kind = "processes"
    cpus: float = 1
    gpus: float = 0
    slurm: Mapping[str, str] = field(default_factory=dict)
    address: str = "auto"


HERE = Place()


class Executor(Protocol):
    """Takes tasks and tells how each goes on. Leaving the context leaves no process behind."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @property
    def busy(self) -> tuple[Task, ...]:
        """The tasks that go on now."""
        ...

    def shares(self, ready: int) -> Sequence[Any]:
        """A place for each task that can begin now, where `ready` of them could."""
        ...

    def start(self, task: Task, share: Any) -> None:
        """Begins a task in a place of `shares`."""
        ...

    def listen(self, seconds: float) -> Iterator[tuple[Task, RunEvent | Ended]]:
        """What tasks say within some seconds: events, and the end of each."""
        ...

    def stop(self) -> None:
        """Asks every task to save its state and end; `listen` tells when each has."""
        ...


class InThisProcess:
    """Runs one task at a time, in this process.

    Args:
        out: folder of the runs. listeners: hear the events of every run as they are.
    """

    def __init__(self, out: Path, listeners: Sequence[Listener] = ()) -> None:
        self._out = out
        self._listeners = listeners
        self._task: Task | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task = None

    @property
    def busy(self) -> tuple[Task, ...]:
        return () if self._task is None else (self._task,)

    def shares(self, ready: int) -> Sequence[Any]:
        return [None] if ready and self._task is None else []

    def start(self, task: Task, share: Any) -> None:  # noqa: ARG002  there is one place
        self._task = task

    def listen(self, seconds: float) -> Iterator[tuple[Task, RunEvent | Ended]]:  # noqa: ARG002  it takes as long as the task
        """The end of the task.

        Raises:
            Interrupted, Terminated: somebody asked for that; its state is saved.
        """
        if self._task is not None:
            task, ended = self._task, attempt(self._task, self._out, self._listeners)
            self._task = None
            yield task, ended

    def stop(self) -> None:
        """A run of this process is stopped by its own signal."""


def count_jobs(jobs: Jobs, cells: int, cores: int, device: str) -> int:
    """The number of worker processes, at most one for each cell.

    Raises:
        UsageError: none, more than there are cores, or "auto" on a GPU.
    """
    if jobs == "auto":
        if device != "cpu":
            raise UsageError(
                "--jobs auto counts CPU cores, and these cells run on a GPU",
                hint="--jobs 2, and more if its memory allows",
            )
        jobs = cores
    if jobs < 1:
        raise UsageError(
            f"--jobs {jobs}: at least one cell has to go on", hint="--jobs 1, or --jobs auto"
        )
    if jobs > cores:
        have = f"{cores} core{'s' * (cores > 1)}"
        raise UsageError(
            f"--jobs {jobs}: each job needs a core, and kd may use {have} here",
            hint=f"--jobs {cores} at most",
        )
    return max(min(jobs, cells), 1)


def open_executor(
    jobs: Jobs,
    most: int,
    out: Path,
    listeners: Sequence[Listener],
    resolved: Resolved,
    place: Place = HERE,
) -> Executor:
    """What runs the tasks of a search.

    Args:
        place: this machine, or a cluster.
        jobs: how many tasks go on at once, at most; 1 is this process.
        most: tasks that could go on at once. out: folder of the runs.
        resolved: a recipe like theirs, which says on what they compute.

    Raises:
        UsageError: more jobs than there are cores, or recipes that train on several devices; there
            is no such cluster.
    """
    if place.kind != "processes":
        return open_cluster(place, jobs, most, out)
    if jobs == 1:
        return InThisProcess(out, listeners)
    runtime = resolved.recipe.runtime
    if runtime.devices > 1:
        raise UsageError(
            "runs that train on several devices (runtime.devices) go on one after another",
            hint="leave --jobs out",
        )
    device, cores = choose_device(runtime.device).value, machine_cores()
    pin = device == "cpu" and hasattr(os, "sched_setaffinity")
    number = count_jobs(jobs, most, len(cores), device)
    threads = torch.get_num_threads()
    return Crew(number, cores, pin=pin, most_threads=threads, out=out, tell=bool(listeners))


def open_cluster(place: Place, jobs: Jobs, most: int, out: Path) -> Executor:
    """What runs tasks on a cluster.

    Args:
        jobs: how many go on at once, at most; "auto": all that can. most: how many there are.
        out: folder of the runs, on a disk that all machines share.

    Raises:
        UsageError: there is no such cluster here, its package is not installed, or no task could
            have so many cores or devices.
    """
    number = max(min(most, MOST_JOBS), 1) if jobs == "auto" else jobs
    if number < 1 or place.cpus <= 0 or place.gpus < 0:
        raise UsageError(
            f"--jobs {number}, --cpus {place.cpus:g}, --gpus {place.gpus:g}: at least one task "
            "with some of a core has to go on"
        )
    if place.kind == "slurm":
        from kdcli.jobs.sweep.slurm_jobs import SlurmJobs

        if place.cpus != round(place.cpus) or place.gpus != round(place.gpus):
            raise UsageError("Slurm gives whole cores and devices", hint="--cpus 1 --gpus 1")
        return SlurmJobs(
            number, out, cpus=round(place.cpus), gpus=round(place.gpus), options=place.slurm
        )
    from kdcli.jobs.sweep.ray_tasks import RayTasks

    return RayTasks(number, out, cpus=place.cpus, gpus=place.gpus, address=place.address)
