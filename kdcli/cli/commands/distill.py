"""`kd distill`: a student trained under one or more teachers."""

from __future__ import annotations

from typing import Any

from kdcli.cli import options as o
from kdcli.cli.commands.model_download import fetch
from kdcli.cli.commands.run_job import run_job
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome

NAME = "distill"
EXAMPLES = """
kd distill
kd distill quickstart --method kd --epochs 10
kd distill --teacher runs/cnn-large-digits-1 --method skd --min-accuracy 0.9
"""


@o.takes("teacher", "teacher_classes", "method", "student", "data", *o.COMMON, *o.GATE_FLAGS)
def run(
    env: Environment,
    recipe: o.RecipeFile = None,
    *,
    sets: o.Sets = None,
    out: o.Out = None,
    keep_state: o.KeepState = False,
    dry_run: o.DryRun = False,
    trust: o.Trust = False,
    download: o.Fetch = False,
    **flags: Any,
) -> Outcome:
    """Train a student under one or more teachers.

    Without a recipe or a teacher: the quickstart, on digits that kd brings along. With a teacher
    alone: the data come from the teacher's file, and the student is the teacher's smaller sibling
    unless --student names one.
    """
    from kdcli.recipe.resolve import resolve

    # every mistake that can be known is told before torch is imported
    resolved = resolve(
        "distill",
        file=recipe,
        sets=sets or (),
        flags=o.overrides(flags),
        environ=env.environ,
    )
    from kdcli import jobs

    if download:
        fetch(env, resolved.recipe)
    return run_job(
        env,
        jobs.distill,
        resolved,
        out=out,
        keep_state=keep_state,
        dry_run=dry_run,
        trust=trust,
    )
