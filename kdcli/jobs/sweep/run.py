"""Running a sweep: finished cells are skipped, stopped ones go on, a failed one stops no other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from kdcli.engine.hardware import choose_device
from kdcli.errors import DeviceUnavailable, Interrupted, KdError, Terminated, UsageError
from kdcli.jobs.build import kept
from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.events import (
    CellDone,
    CellStarted,
    Event,
    FromRun,
    Listener,
    RunEvent,
    SweepStarted,
    TeacherDone,
    TeacherStarted,
)
from kdcli.jobs.listeners import Audience
from kdcli.jobs.processes import devices
from kdcli.jobs.processes.signals import StopRequest
from kdcli.jobs.sweep.executor import HERE, Executor, Jobs, Place, count_jobs, open_cluster
from kdcli.jobs.sweep.schedule import Ended, Task, attempt, cell_tasks, with_teachers
from kdcli.jobs.sweep.workers import Crew, machine_cores
from kdcli.recipe.sweep.cells import Sweep, load_sweep
from kdcli.results.sweep import CellResult, SweepResult
from kdcli.runs.find import finished_runs
from kdcli.runs.folder import check_out, claimed_sweep

_STATUS: Mapping[str, Literal["done", "skipped", "failed"]] = {
    "done": "done",
    "found": "skipped",
    "failed": "failed",
}

_KEPT = "the state of every running cell is saved"
_TURN_SECONDS = 0.2  # a signal is noticed that late at most


def run_sweep(
    sweep: Sweep | str | Path,
    *,
    out: str | Path = "runs",
    listeners: Sequence[Listener] = (),
    command: str = "",
    limit: int | None = None,
    jobs: Jobs = 1,
    place: Place = HERE,
    trust: bool = False,
) -> SweepResult:
    """Runs every cell of a sweep that is not finished yet.

    Args:
        sweep: a sweep file, a shipped sweep's name, or a loaded sweep.
        limit: run at most this many cells, skipped ones not counted.
        jobs: how many cells go on at once, each in a process of its own; "auto": one for each core.
            A script that asks for more than one begins at `if __name__ == "__main__":`, as with all
            of Python's processes.
        place: where cells run: this machine, or a cluster whose machines share the folder of the
            runs; there "auto" is all cells that can go on.
        trust: whether Python files run that a checkpoint or another recipe names, and not the
            caller.

    Raises:
        RecipeInvalid: the sweep or a cell of it; nothing was run. UsageError: `jobs` is more than
            this machine has cores, or its cells train on several devices each; there is no such
            cluster; another process is at work on these cells in this folder.
        Interrupted, Terminated: the state of what went on is saved, and the same command goes on
            from there.
    """
    loaded = sweep if isinstance(sweep, Sweep) else load_sweep(sweep)
    devices.refuse_torchrun("kd sweep")
    loaded.check()  # a mistake in the last cell must not show after hours
    told = command or f"kd sweep {loaded.path}"
    check_out(Path(out))
    with trusted_recipe(*(cell.resolved for cell in loaded.cells), trust=trust):
        heard = (Audience.of(listeners),) if listeners else ()
        return _run_all(loaded, Path(out), heard, told, limit, jobs, place)


def _run_all(
    loaded: Sweep,
    folder: Path,
    listeners: Sequence[Listener],
    told: str,
    limit: int | None,
    jobs: Jobs,
    place: Place,
) -> SweepResult:
    tasks = cell_tasks([cells[0] for cells in loaded.runs().values()], told)
    with claimed_sweep(folder, (task.key for task in tasks), f"the cells of {loaded.path.name}"):
        finished = finished_runs(folder)  # read once: what this sweep adds are other cells
        looked_at = _within(limit, tasks, finished)
        if jobs == 1 and place.kind == "processes":
            with kept.between_runs():
                results = [
                    _one_cell(task, len(tasks), folder, finished, listeners) for task in looked_at
                ]
        else:
            together = _Together(len(tasks), folder, listeners, told)
            results = together.run(looked_at, finished, jobs, place)
    return SweepResult(str(loaded.path), len(tasks), tuple(results))


def _within(limit: int | None, tasks: Sequence[Task], finished: Mapping[str, Path]) -> list[Task]:
    """Tasks up to the last that the limit lets run; finished ones among them do not count."""
    chosen: list[Task] = []
    left = len(tasks) if limit is None else limit
    for task in tasks:
        if left <= 0:
            break
        chosen.append(task)
        left -= task.key not in finished
    return chosen


def _tell(listeners: Sequence[Listener], event: Event) -> None:
    for listener in listeners:
        listener(event)


def _one_cell(
    task: Task, count: int, out: Path, finished: Mapping[str, Path], listeners: Sequence[Listener]
) -> CellResult:
    _tell(listeners, _cell_started(task, count))
    try:
        ended = attempt(task, out, listeners, finished)
    except (Interrupted, Terminated) as error:
        # the same command finds the finished cells and goes on with this one
        error.hint = task.command
        raise
    result = _result(task, ended)
    _tell(listeners, _cell_done(task, count, result))
    return result


def _result(task: Task, ended: Ended) -> CellResult:
    assert task.cell is not None
    return CellResult(
        task.id, task.cell.labels, _STATUS[ended.status], ended.run, ended.error, _metrics(ended)
    )


def _metrics(ended: Ended) -> dict[str, float]:
    return {"accuracy": ended.accuracy} if ended.accuracy is not None else {}


def _cell_started(task: Task, count: int) -> CellStarted:
    assert task.cell is not None
    return CellStarted(task.number, count, task.id, task.cell.labels)


def _cell_done(task: Task, count: int, result: CellResult) -> CellDone:
    return CellDone(
        task.number,
        count,
        task.id,
        result.labels,
        result.status,
        result.run,
        result.error,
        dict(result.metrics),
    )


# ---- several at once -----------------------------------------------------------------------------


def _device(tasks: Sequence[Task]) -> str:
    """The device of the cells: a GPU if any of them computes on one."""
    found = "cpu"
    for wanted in dict.fromkeys(task.resolved.recipe.runtime.device for task in tasks):
        try:
            value = choose_device(wanted).value
        except DeviceUnavailable:
            continue  # those cells will say so
        found = value if value != "cpu" else found
    return found


class _Together:
    """Runs tasks in the processes of a crew: teachers first, then what waits for them."""

    def __init__(self, count: int, out: Path, listeners: Sequence[Listener], command: str) -> None:
        self.count = count  # cells of the sweep
        self.out = out
        self.listeners = tuple(listeners)
        self.command = command
        self.ended: dict[str, Ended] = {}
        self.waiting: list[Task] = []
        self.stopping: KdError | None = None
        self.cut = False  # whether a task ended before it was through

    def run(
        self, cells: Sequence[Task], finished: Mapping[str, Path], jobs: Jobs, place: Place
    ) -> list[CellResult]:
        """The results of all cells, in their order."""
        open_cells = [task for task in cells if task.key not in finished]
        crew: Executor
        if place.kind == "processes":
            crew, started = self._here(open_cells, jobs)
        else:
            most = max(len(open_cells), 1)
            crew = open_cluster(place, jobs, most, self.out)
            number = most if jobs == "auto" else min(jobs, most)
            started = SweepStarted(
                0, 0, 0, number, max(round(place.cpus), 1), place.kind, pinned=False
            )
        self.waiting = with_teachers(open_cells, finished)
        teachers = len(self.waiting) - len(open_cells)
        self._tell(replace(started, cells=self.count, runs=len(self.waiting), teachers=teachers))
        for task in cells:
            if task.key in finished:
                self._tell(_cell_started(task, self.count))
                self._end(task, Ended("found", str(finished[task.key])))
        with StopRequest(self.command, kept=_KEPT) as stop, crew:
            while self.waiting or crew.busy:
                self._turn(crew, stop)
        return [_result(task, self.ended[task.key]) for task in cells]

    def _here(self, open_cells: Sequence[Task], jobs: Jobs) -> tuple[Crew, SweepStarted]:
        """Processes of this machine."""
        device, cores = _device(open_cells), machine_cores()
        number = count_jobs(jobs, len(open_cells), len(cores), device)
        if any(task.resolved.recipe.runtime.devices > 1 for task in open_cells):
            raise UsageError(
                "cells that train on several devices (runtime.devices) run one after another",
                hint="leave --jobs out",
            )
        pin = device == "cpu" and hasattr(os, "sched_setaffinity")
        crew = Crew(
            number,
            cores,
            pin=pin,
            most_threads=torch.get_num_threads(),
            out=self.out,
            tell=bool(self.listeners),
        )
        return crew, SweepStarted(0, 0, 0, number, crew.share(number).threads, device, pin)

    def _turn(self, crew: Executor, stop: StopRequest) -> None:
        if self.stopping is None:
            self._drop_orphans()
            done = {key for key, ended in self.ended.items() if ended.status != "failed"}
            ready = [task for task in self.waiting if task.needs <= done]
            for task, share in zip(ready, crew.shares(len(ready)), strict=False):
                self.waiting.remove(task)
                self._tell(
                    _cell_started(task, self.count)
                    if task.cell is not None
                    else TeacherStarted(task.id, task.name)
                )
                crew.start(task, share)
        for task, message in crew.listen(_TURN_SECONDS):
            self._heard(task, message)
        if self.stopping is None:
            # a worker that somebody else stopped: so will the rest be, or this is a scheduler that
            # has not come to us yet
            self.stopping = stop() or (
                Terminated(f"terminated; {_KEPT}", hint=self.command) if self.cut else None
            )
            if self.stopping is not None:
                crew.stop()
        if self.stopping is not None and not crew.busy and (self.waiting or self.cut):
            raise self.stopping

    def _drop_orphans(self) -> None:
        """Fails the tasks that wait for a teacher that failed."""
        for task in list(self.waiting):
            lost = next(
                (
                    self.ended[key]
                    for key in task.needs
                    if key in self.ended and self.ended[key].status == "failed"
                ),
                None,
            )
            if lost is not None:
                self.waiting.remove(task)
                self._end(task, Ended("failed", error=f"its teacher failed: {lost.error}"))

    def _heard(self, task: Task, message: RunEvent | Ended) -> None:
        if not isinstance(message, Ended):
            self._tell(FromRun(task.id, task.number, task.name, message))
        elif message.status == "stopped" or (
            message.status == "failed" and self.stopping is not None
        ):
            # a process that was still starting dies of being stopped: no failure of its task
            self.cut = True
        else:
            self._end(task, message)

    def _end(self, task: Task, ended: Ended) -> None:
        self.ended[task.key] = ended
        if task.cell is not None:
            self._tell(_cell_done(task, self.count, _result(task, ended)))
        else:
            self._tell(
                TeacherDone(
                    task.id,
                    task.name,
                    _STATUS[ended.status],
                    ended.run,
                    ended.error,
                    _metrics(ended),
                )
            )

    def _tell(self, event: Event) -> None:
        _tell(self.listeners, event)
