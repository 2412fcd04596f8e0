"""Runs a recipe for train-teacher and distill: resolve before torch, train with progress, show what
came out.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdcli.cli.console import Environment
from kdcli.cli.output import github
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.output.progress import narrate
from kdcli.cli.output.run_screen import show_result
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.recipe.resolve import Flag
    from kdcli.results.run import RunResult


def run_job(
    env: Environment,
    kind: Literal["train-teacher", "distill"],
    *,
    recipe: str | None,
    sets: Sequence[str],
    flags: Sequence[Flag],
    out: Path | None,
    keep_state: bool,
    dry_run: bool,
) -> Outcome:
    """Resolve and run a recipe. Every mistake that can be known is reported before torch is
    imported.
    """
    from kdcli.recipe.resolve import resolve

    resolved = resolve(kind, file=recipe, sets=sets, flags=flags, environ=env.environ)
    from kdcli import jobs

    job = jobs.distill if kind == "distill" else jobs.train_teacher
    folder = runs_dir(env.environ, out)
    typed = shlex.join(["kd", *env.argv])
    with narrate(env) as listeners:
        result = job(
            resolved,
            out=folder,
            listeners=listeners,
            command=typed,
            dry_run=dry_run,
            keep_state=keep_state,
        )
    if result is None:
        env.report(
            ("✓", "green"),
            (
                " dry run: the recipe resolves, everything builds, one batch went through; "
                "nothing was written"
            ),
        )
        return Outcome()
    return finish(env, result)


def finish(env: Environment, result: RunResult) -> Outcome:
    """Show a finished run and hand it on."""
    show_result(env, result)
    github.summarise(env, Path(result.run) / "report.md")
    return Outcome.of(result)
