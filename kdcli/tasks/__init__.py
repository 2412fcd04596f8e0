"""Tasks by name, one file each; nowhere else does anything depend on a task's name."""

from __future__ import annotations

import importlib
from pathlib import Path

from kdcli import catalog
from kdcli.core.task import IMAGE_CLASSIFICATION, Headline, Task
from kdcli.errors import KdError, NotFound

__all__ = ["Headline", "Task", "named", "names", "networks", "of_data", "of_model"]


def names() -> tuple[str, ...]:
    """Every task, sorted."""
    files = Path(__file__).parent.glob("[!_]*.py")
    return tuple(sorted(path.stem.replace("_", "-") for path in files))


def named(name: str) -> Task:
    """A task by name.

    Raises:
        NotFound: there is none of that name.
    """
    if name not in names():
        raise NotFound(f"{name!r} is not a task", hint=f"there are {', '.join(names())}")
    found: Task = importlib.import_module(f"kdcli.tasks.{name.replace('-', '_')}").TASK
    return found


def of_data(name: str) -> Task:
    """The task of a dataset; image classification where its table says none, or is not at hand."""
    return _of("dataset", name)


def of_model(name: str) -> Task:
    """The task of a network, likewise."""
    return _of("model", name)


def networks(task: Task) -> tuple[str, ...]:
    """The networks of a task that ship with kd, by name."""
    found = catalog.entries("model").items()
    return tuple(
        name for name, entry in found if entry.facts.get("task", IMAGE_CLASSIFICATION) == task.name
    )


def _of(kind: catalog.Kind, name: str) -> Task:
    try:
        said = catalog.entry(kind, name).facts.get("task")
    except KdError:  # a report is read where the file of somebody's own is not
        said = None
    return named(said if isinstance(said, str) else IMAGE_CLASSIFICATION)
