"""Runs a job with progress and shows what came out: for train-teacher, distill and resume."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.cli.commands.gates import warn_of_unsigned
from kdcli.cli.console import Environment
from kdcli.cli.output import github
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.output.progress import narrate
from kdcli.cli.output.run_screen import show_result
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.recipe.resolve import Resolved
    from kdcli.recipe.schema import Recipe
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
    warnings = warn_of_unsigned(env, _checkpoints(resolved.recipe))
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
        return Outcome(warnings=warnings)
    return finish(env, result, warnings)


def _checkpoints(recipe: Recipe) -> Iterator[Path]:
    """The checkpoints that a recipe names: its teachers, what its network starts from, and what the
    gap is measured to.
    """
    for section in getattr(recipe, "teacher", ()):
        if section.checkpoint is not None:
            yield Path(section.checkpoint)
    for key in ("model", "student"):
        start = getattr(getattr(recipe, key, None), "init", None)
        if start is not None:
            yield Path(start)
    reference = recipe.report.reference
    if reference is not None and not reference.endswith(".toml"):
        yield Path(reference)


def finish(env: Environment, result: RunResult, warnings: tuple[str, ...] = ()) -> Outcome:
    """Show a finished run and hand it on, with what was warned of before it."""
    show_result(env, result)
    github.summarise(env, Path(result.run) / "report.md")
    return Outcome.of(result, warnings)
