"""`kd train-teacher`: a network trained on labels."""

from __future__ import annotations

from kdcli.cli import options as o
from kdcli.cli.commands.run_job import run_job
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome

NAME = "train-teacher"
EXAMPLES = """
kd train-teacher
kd train-teacher --model cnn-large --epochs 10
kd train-teacher quickstart-teacher -s optim.lr=0.1 --min-accuracy 0.9
"""


def run(
    env: Environment,
    recipe: o.RecipeFile = None,
    *,
    model: o.Model = None,
    data: o.Data = None,
    epochs: o.Epochs = None,
    seed: o.Seed = None,
    name: o.Name = None,
    sets: o.Sets = None,
    device: o.Device = None,
    devices: o.Devices = None,
    precision: o.Precision = None,
    out: o.Out = None,
    keep_state: o.KeepState = False,
    dry_run: o.DryRun = False,
    min_accuracy: o.MinAccuracy = None,
    max_ece: o.MaxEce = None,
) -> Outcome:
    """Train a network on labels.

    Without a recipe: the quickstart's teacher, on digits that kd brings along.
    """
    given = {
        "--model": model,
        "--data": data,
        "--epochs": epochs,
        "--seed": seed,
        "--name": name,
        "--device": device,
        "--devices": devices,
        "--precision": precision,
        "--min-accuracy": min_accuracy,
        "--max-ece": max_ece,
    }
    flags = o.flags(given)
    return run_job(
        env,
        "train-teacher",
        recipe=recipe,
        sets=sets or (),
        flags=flags,
        out=out,
        keep_state=keep_state,
        dry_run=dry_run,
    )
