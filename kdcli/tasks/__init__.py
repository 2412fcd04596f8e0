"""Tasks by name, one file each; nowhere else does anything depend on a task's name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from kdcli import catalog
from kdcli.core.task import (
    IMAGE_CLASSIFICATION,
    LANGUAGE_MODELLING,
    TEXT_CLASSIFICATION,
    Headline,
    Task,
)
from kdcli.errors import KdError, NotFound

__all__ = ["Headline", "Task", "named", "names", "networks", "of_data", "of_model", "serves"]

ANY = "any"  # of a library's networks, which are built for the data


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
    return named(_said("dataset", name))


def of_model(name: str, input_shape: Sequence[int] | None = None) -> Task:
    """The task of a network, likewise. One of a library's may be for any: then its input tells,
    which is one token, a text of them, or a picture.
    """
    found = _said("model", name)
    if found != ANY:
        return named(found)
    if input_shape is None or tuple(input_shape[:2]) != (1, 1):
        return named(IMAGE_CLASSIFICATION)
    return named(LANGUAGE_MODELLING if input_shape[2] == 1 else TEXT_CLASSIFICATION)


def serves(name: str, task: Task) -> bool:
    """Tells whether a network is for a task."""
    return _said("model", name) in {ANY, task.name}


def networks(task: Task) -> tuple[str, ...]:
    """The networks of a task that ship with kd, by name."""
    found = catalog.entries("model").items()
    return tuple(
        name
        for name, entry in found
        if entry.facts.get("task", IMAGE_CLASSIFICATION) in {ANY, task.name}
    )


def _said(kind: catalog.Kind, name: str) -> str:
    try:
        said = catalog.entry(kind, name).facts.get("task")
    except KdError:  # a report is read where the file of somebody's own is not
        said = None
    return said if isinstance(said, str) else IMAGE_CLASSIFICATION
