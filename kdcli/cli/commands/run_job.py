"""Runs a job with progress and shows what came out: for train-teacher, distill and resume."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.cli.console import Environment
from kdcli.cli.output import github
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.output.progress import narrate
from kdcli.cli.output.run_screen import show_result
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.recipe.resolve import Resolved
    from kdcli.results.run import RunResult


def run_job(
    env: Environment,
    job: Callable[..., RunResult | None],
    resolved: Resolved,
    *,
    out: Path | None,
    keep_state: bool,
    dry_run: bool,
    trust: bool,
) -> Outcome:
    """Call a job of kdcli.jobs on a resolved recipe, with progress, and show what comes out."""
    with narrate(env) as listeners:
        result = job(
            resolved,
            out=runs_dir(env.environ, out),
            listeners=listeners,
            command=shlex.join(["kd", *env.argv]),
            dry_run=dry_run,
            keep_state=keep_state,
            trust=trust,
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
