"""`kd train-teacher`: a network trained on labels."""

from __future__ import annotations

from typing import Any

from kdcli.cli import options as o
from kdcli.cli.commands.model_download import fetch
from kdcli.cli.commands.run_job import run_job
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome

NAME = "train-teacher"
EXAMPLES = """
kd train-teacher
kd train-teacher --model cnn-large --epochs 10
kd train-teacher quickstart-teacher -s optim.lr=0.1 --min-accuracy 0.9
"""


@o.takes("model", "data", *o.COMMON, *o.LABEL_GATES)
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
    """Train a network on labels.

    Without a recipe: the quickstart's teacher, on digits that kd brings along.
    """
    from kdcli.recipe.resolve import resolve

    # every mistake that can be known is told before torch is imported
    resolved = resolve(
        "train-teacher",
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
        jobs.train_teacher,
        resolved,
        out=out,
        keep_state=keep_state,
        dry_run=dry_run,
        trust=trust,
    )
