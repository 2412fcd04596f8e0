"""The devices of a run: as many as a recipe asks for, torchrun has started, and this machine has.

Started by `--devices` (kdcli.jobs.processes.launch) or by torchrun, every rank does the whole job.
They differ in this: each trains on its part of every minibatch, and only the first speaks, measures
and writes, while the others wait for what it makes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from kdcli import formatting
from kdcli.engine.distributed import Ranks
from kdcli.errors import DeviceUnavailable, UsageError
from kdcli.jobs.events import Listener
from kdcli.jobs.listeners import Audience
from kdcli.jobs.processes.process_group import joined, on_cuda
from kdcli.recipe.resolve import Resolved
from kdcli.recipe.schema import RuntimeSection
from kdcli.surroundings import number_in, started_rank

T = TypeVar("T")


def settled(resolved: Resolved) -> Resolved:
    """A recipe with as many devices as torchrun has started ranks, if it has started several.

    Raises:
        UsageError: it asks for another number, or its minibatches are too small to share.
    """
    size, asked = _size(), resolved.recipe.runtime.devices
    if size in {1, asked}:
        return resolved
    if asked > 1:
        raise UsageError(
            f"runtime.devices is {asked}, and {size} ranks were started",
            hint="leave it out: torchrun says how many",
        )
    recipe = resolved.recipe
    fields = {name: getattr(recipe, name) for name in type(recipe).model_fields}
    try:
        changed = type(recipe)(
            **{**fields, "runtime": recipe.runtime.model_copy(update={"devices": size})}
        )
        RuntimeSection.model_validate(changed.runtime.model_dump())
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"]) from error
    return replace(
        resolved, recipe=changed, origins={**resolved.origins, "runtime.devices": "torchrun"}
    )


def check_same(run: Path, section: RuntimeSection) -> None:
    """Refuses to resume a run on another number of ranks than it was trained on.

    Raises:
        UsageError: torchrun started another number.
    """
    if _size() not in {1, section.devices}:
        had = "one process" if section.devices == 1 else f"{section.devices} ranks"
        raise UsageError(
            f"{run} was trained by {had}, and torchrun started {_size()}",
            hint=f"kd resume {run}, without torchrun",
        )


def check(section: RuntimeSection) -> None:
    """Refuses more devices than this machine has.

    Raises:
        DeviceUnavailable: says how many there are.
    """
    count = (
        number_in(os.environ, "LOCAL_WORLD_SIZE", section.devices)
        if _size() > 1
        else section.devices
    )
    if count == 1:
        return
    if on_cuda(section):
        have, what = torch.cuda.device_count(), "CUDA device"
    else:
        have, what = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1,
            "CPU core",
        )
    if count > have:
        hint = f"--devices {have} at most" if have > 1 else "leave --devices out"
        raise DeviceUnavailable(
            f"{count} devices were asked for, and this machine has "
            f"{formatting.plural(have, what, ' ')}",
            hint=hint,
        )


def refuse_torchrun(command: str) -> None:
    """Refuses a command that each rank of torchrun would do once more.

    Raises:
        UsageError: torchrun started this process beside others.
    """
    if _size() > 1:
        raise UsageError(
            f"{command} is one process, and torchrun started {_size()}",
            hint=f"{command}, with runtime.devices in the recipe",
        )


def local_rank() -> int:
    """The index of this process's CUDA device, where the recipe names none."""
    return number_in(os.environ, "LOCAL_RANK", 0) if Ranks.current().size > 1 else 0


def own_threads(section: RuntimeSection) -> int | None:
    """The CPU threads of this rank; None, for the process's own, where the recipe has none."""
    if section.threads is None or Ranks.current().size == 1:
        return section.threads
    return max(section.threads // number_in(os.environ, "LOCAL_WORLD_SIZE", section.devices), 1)


def shared(
    section: RuntimeSection,
    task: Callable[..., T],
    arguments: Mapping[str, Any],
    listeners: Sequence[Listener],
) -> T:
    """Does a task on as many ranks as a recipe asks for, those of torchrun or some started for it.

    Args:
        task: a function of a module, called with `arguments` and `listeners`; these hear the first
            rank only.

    Raises:
        KdError: of the task; with the rank in its message, where one rank failed alone.
        RankLost: a rank was killed. DeviceUnavailable: this machine has not so many devices.
    """
    listeners = (Audience.of(listeners),) if listeners else ()
    if section.devices == 1:
        return task(**arguments, listeners=listeners)
    check(section)
    if _size() == 1:
        from kdcli.jobs.processes.launch import start

        found: T = start(section, task, arguments, listeners)
        return found
    with joined(section):
        ranks = Ranks.current()
        with ranks.noticing():
            return task(**arguments, listeners=listeners if ranks.first else ())


def _size() -> int:
    """The number of ranks: of torch.distributed, or of torchrun where they have not met yet."""
    if Ranks.current().size > 1:
        return Ranks.current().size
    told = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return started_rank(os.environ)[1] if told else 1
