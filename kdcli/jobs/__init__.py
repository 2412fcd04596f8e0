"""Whole jobs as functions: what the command line calls, and what a notebook imports.

    from kdcli.jobs import distill
    result = distill(teacher="runs/resnet56-cifar100-1", method="skd", epochs=3)

Each takes a recipe, or the keyword arguments that the command line has as flags, and returns a
frozen result of `kdcli.results.measures`. Errors are those of `kdcli.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kdcli.jobs.build.datasets import download
from kdcli.jobs.build.networks import build_network
from kdcli.jobs.doctor import Check, doctor
from kdcli.jobs.events import Listener
from kdcli.jobs.fill_cache import fill_cache
from kdcli.jobs.measure.analyze_gap import analyze_gap
from kdcli.jobs.measure.evaluate import evaluate
from kdcli.jobs.model_info import (
    ModelCard,
    Proposal,
    describe_model,
    model_members,
    propose_students,
)
from kdcli.jobs.plan.forecast import forecast
from kdcli.jobs.sweep.run import run_sweep
from kdcli.jobs.train.run import execute, resume
from kdcli.recipe.resolve import Flag, Resolved, resolve
from kdcli.results.run import RunResult

__all__ = [
    "Check",
    "ModelCard",
    "Proposal",
    "analyze_gap",
    "build_network",
    "describe_model",
    "distill",
    "doctor",
    "download",
    "evaluate",
    "fill_cache",
    "forecast",
    "model_members",
    "propose_students",
    "resume",
    "run_sweep",
    "train_teacher",
]

# keyword argument -> recipe key: the aliases that the command line has as flags
ALIASES: Mapping[str, str] = {
    "teacher": "teacher.checkpoint",
    "method": "method.name",
    "student": "student.name",
    "model": "model.name",
    "data": "data.name",
    "epochs": "train.epochs",
    "seed": "seed",
    "name": "name",
    "device": "runtime.device",
    "devices": "runtime.devices",
    "precision": "runtime.precision",
}


def train_teacher(
    recipe: Resolved | str | Path | None = None,
    *,
    out: str | Path = "runs",
    listeners: Sequence[Listener] = (),
    command: str = "",
    dry_run: bool = False,
    keep_state: bool = False,
    overrides: Mapping[str, Any] | None = None,
    **aliases: Any,
) -> RunResult | None:
    """Train a network on labels.

    Args:
        recipe: a recipe file, a shipped recipe's name, or a resolved recipe; the quickstart's
            teacher unless given.
        out: folder of the runs. listeners: called with each event of `kdcli.jobs.events`.
        dry_run: build everything, try one minibatch, write nothing and return None.
        overrides: recipe keys and values, {"train.epochs": 3}. aliases: model, data, epochs, seed,
            name, device, devices, precision. A script that asks for several devices begins at `if
            __name__ == "__main__":`, as with all of Python's processes.

    Raises:
        KdError: see docs/reference/exit-codes.md.
    """
    resolved = _resolved("train-teacher", recipe, overrides, aliases)
    return execute(
        resolved,
        out=Path(out),
        listeners=listeners,
        command=command,
        dry_run=dry_run,
        keep_state=keep_state,
    )


def distill(
    recipe: Resolved | str | Path | None = None,
    *,
    out: str | Path = "runs",
    listeners: Sequence[Listener] = (),
    command: str = "",
    dry_run: bool = False,
    keep_state: bool = False,
    overrides: Mapping[str, Any] | None = None,
    **aliases: Any,
) -> RunResult | None:
    """Train a student under one or more teachers.

    Args:
        recipe, out, listeners, command, dry_run, keep_state, overrides: as for `train_teacher`.
        aliases: teacher (a checkpoint, or a list of them), method, student, data, epochs, seed,
            name, device, devices, precision.

    Raises:
        KdError: see docs/reference/exit-codes.md.
    """
    resolved = _resolved("distill", recipe, overrides, aliases)
    return execute(
        resolved,
        out=Path(out),
        listeners=listeners,
        command=command,
        dry_run=dry_run,
        keep_state=keep_state,
    )


def _resolved(
    kind: Literal["train-teacher", "distill"],
    recipe: Resolved | str | Path | None,
    overrides: Mapping[str, Any] | None,
    aliases: Mapping[str, Any],
) -> Resolved:
    if isinstance(recipe, Resolved):
        return recipe
    unknown = sorted(set(aliases) - set(ALIASES))
    if unknown:
        raise TypeError(
            f"{kind} takes no argument {unknown[0]!r}; recipe keys go into overrides={{...}}"
        )
    flags = [Flag(option=name, key=ALIASES[name], value=value) for name, value in aliases.items()]
    flags += [
        Flag(option=f"overrides[{key!r}]", key=key, value=value)
        for key, value in (overrides or {}).items()
    ]
    return resolve(kind, file=None if recipe is None else Path(recipe), flags=flags)
