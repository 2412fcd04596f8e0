"""`kd distill`: a student trained under one or more teachers."""

from __future__ import annotations

from kdcli.cli import options as o
from kdcli.cli.commands.run_job import run_job
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome

NAME = "distill"
EXAMPLES = """
kd distill
kd distill quickstart --method kd --epochs 10
kd distill --teacher runs/cnn-large-digits-1 --method skd --min-accuracy 0.9
"""


def run(
    env: Environment,
    recipe: o.RecipeFile = None,
    *,
    teacher: o.Teacher = None,
    method: o.Method = None,
    student: o.Student = None,
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
    max_entropy_gap: o.MaxEntropyGap = None,
    max_free_energy_gap: o.MaxFreeEnergyGap = None,
    max_ece: o.MaxEce = None,
) -> Outcome:
    """Train a student under one or more teachers.

    Without a recipe or a teacher: the quickstart, on digits that kd brings along. With a teacher
    alone: the data come from the teacher's file, and the student is the teacher's smaller sibling
    unless --student names one.
    """
    given = {
        "--teacher": teacher or None,
        "--method": method,
        "--student": student,
        "--data": data,
        "--epochs": epochs,
        "--seed": seed,
        "--name": name,
        "--device": device,
        "--devices": devices,
        "--precision": precision,
        "--min-accuracy": min_accuracy,
        "--max-entropy-gap": max_entropy_gap,
        "--max-free-energy-gap": max_free_energy_gap,
        "--max-ece": max_ece,
    }
    flags = o.flags(given)
    return run_job(
        env,
        "distill",
        recipe=recipe,
        sets=sets or (),
        flags=flags,
        out=out,
        keep_state=keep_state,
        dry_run=dry_run,
    )
