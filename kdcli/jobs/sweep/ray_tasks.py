"""Tasks of a sweep on a Ray cluster, wherever it has room.

Ray finds the place and, where a worker or its machine dies, another one: the run goes on there from
its state, because all machines share the folder of the runs.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdcli import trust
from kdcli.errors import Interrupted, Terminated, UsageError
from kdcli.jobs.events import RunEvent
from kdcli.jobs.sweep.schedule import Ended, Task, attempt
from kdcli.surroundings import hush_libraries

_CONNECT_SECONDS = 10.0
RETRIES = 5  # of a task whose worker or machine died; one that fails by itself is not tried again


def run_task(task: Task, out: Path, folder: str, trusted: trust.Trusted) -> Ended:
    """Runs a task on a worker.

    Args:
        folder: that the sweep was started in: its paths start from there.
        trusted: what may run where the sweep was started.
    """
    os.chdir(folder)
    hush_libraries()
    trust.adopt(trusted)
    try:
        return attempt(task, out)
    except (Interrupted, Terminated, KeyboardInterrupt):
        return Ended("stopped")


def _check_there(address: str) -> None:
    """Refuses an address at which nobody listens: Ray itself would wait for minutes.

    Raises:
        UsageError: so it is.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _not_there(address, str(error)) from error


def _not_there(address: str, why: str) -> UsageError:
    where = "of this machine" if address == "auto" else f"at {address}"
    return UsageError(
        f"there is no Ray cluster {where}: {why}",
        hint="ray start --head, then ray start --address=HOST:6379 on each machine",
    )


class RayTasks:
    """An executor (kdcli.jobs.sweep.executor) whose tasks are those of Ray.

    Args:
        most: tasks that go on at once. out: folder of the runs, on a disk that all machines share.
        cpus, gpus: of each task; fractions too. address: of the cluster.

    Raises:
        UsageError: there is no cluster at the address, Ray is not installed, or no machine of the
            cluster has so many cores or devices.
    """

    def __init__(self, most: int, out: Path, *, cpus: float, gpus: float, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "--executor ray needs ray, which is not installed",
                hint="pip install 'kdcli[ray]'",
            ) from error
        self._ray: Any = ray
        self._most = most
        self._out = out.absolute()
        self._ours = not ray.is_initialized()
        if self._ours:
            _check_there(address)
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                text = str(error).strip().partition("\n")[0]
                raise _not_there(address, text) from error
        self._check_room(cpus, gpus)
        self._call = ray.remote(run_task).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False
        )
        self._running: dict[Any, Task] = {}
        self._stopped = False

    def _check_room(self, cpus: float, gpus: float) -> None:
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(each.get("CPU", 0) >= cpus and each.get("GPU", 0) >= gpus for each in alive):
            self._leave()
            raise UsageError(
                f"no machine of the Ray cluster has {cpus:g} cores and {gpus:g} GPUs",
                hint="fewer --cpus and --gpus",
            )

    def _leave(self) -> None:
        if self._ours:
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=isinstance(error, KeyboardInterrupt))
        self._running.clear()
        self._leave()

    @property
    def busy(self) -> tuple[Task, ...]:
        return tuple(self._running.values())

    def shares(self, ready: int) -> Sequence[Any]:
        return [None] * min(ready, self._most - len(self._running))

    def start(self, task: Task, share: Any) -> None:  # noqa: ARG002  Ray finds the place
        """Hands a task to the cluster."""
        reference = self._call.remote(
            replace(task, cell=None), self._out, str(Path.cwd()), trust.current()
        )
        self._running[reference] = task

    def listen(self, seconds: float) -> Iterator[tuple[Task, RunEvent | Ended]]:
        """The tasks that have ended. One that no retry has brought to its end has failed."""
        done, _ = self._ray.wait(
            list(self._running), num_returns=1, timeout=seconds, fetch_local=True
        )
        for reference in done:
            task = self._running.pop(reference)
            yield task, self._ended(reference)

    def _ended(self, reference: Any) -> Ended:
        try:
            found: Ended = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if self._stopped:
                return Ended("stopped")
            text = str(error).strip().partition("\n")[0]
            return Ended("failed", error=f"its worker was lost {RETRIES + 1} times: {text}")
        return found

    def stop(self) -> None:
        """Interrupts every task, as Ctrl-C would: it saves its state."""
        self._stopped = True
        for reference in self._running:
            self._ray.cancel(reference)
