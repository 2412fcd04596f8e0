"""`kd plan`: what a recipe will take and what will be chosen for it, from some of its steps. Nothing is kept."""

from __future__ import annotations

import shlex
import shutil
import textwrap
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli import __version__
from kdcli.cli import options as o
from kdcli.cli.check import is_sweep
from kdcli.cli.env import Environment
from kdcli.cli.envelope import Outcome
from kdcli.cli.options import runs_dir
from kdcli.cli.text import columns
from kdcli.errors import UsageError
from kdcli.report import words

if TYPE_CHECKING:
    from kdcli.plans import Plan, PlannedTable

NAME = "plan"
EXAMPLES = """
kd plan quickstart
kd plan quickstart --method kd --epochs 240
kd plan quickstart-teacher --json -q | jq .data.seconds
"""
_WIDEST = 100
_LABELS = {
    "start": "start",
    "teachers": "teacher",
    "first_steps": "first steps",
    "training": "training",
    "evaluation": "evaluation",
    "probes": "probes",
    "upkeep": "states, logs",
    "report": "report",
}
_CHOICES = {
    "device": "device",
    "precision": "precision",
    "teacher_precision": "teacher in",
    "compile": "compile",
    "stored_logits": "logits",
}
_STORED = {"exact": "stored", "off": "not stored"}


def run(
    env: Environment,
    recipe: o.RecipeFile = None,
    *,
    teacher: o.Teacher = None,
    method: o.Method = None,
    student: o.Student = None,
    model: o.Model = None,
    data: o.Data = None,
    epochs: o.Epochs = None,
    seed: o.Seed = None,
    sets: o.Sets = None,
    device: o.Device = None,
    precision: o.Precision = None,
    out: o.Out = None,
) -> Outcome:
    """Say what a recipe will take, and keep nothing.

    Some minibatches of each stage are trained on and everything around them is gone through once, as kd distill or kd train-teacher would:
    seconds, memory, disk, and each automatic choice with its reason. A teacher that is yet to be trained is planned first.
    """
    spent = time.process_time()  # of the imports until now, without what the disk made them wait
    if recipe is not None:
        _refuse_sweep(recipe, sets or [])
    from kdcli.recipe.resolve import kind_of, resolve

    given = {
        "--teacher": teacher or None, "--method": method, "--student": student, "--model": model, "--data": data, "--epochs": epochs,
        "--seed": seed, "--device": device, "--precision": precision,
    }  # fmt: skip
    kind = kind_of(recipe) if recipe is not None else "distill" if model is None else "train-teacher"
    resolved = resolve(kind, file=recipe, sets=sets or (), flags=o.flags(given), environ=env.environ)
    from kdcli import jobs

    spent = max(spent, time.process_time())
    plan = jobs.forecast(resolved, out=runs_dir(env.environ, out), tell=lambda text: env.progress(f"  {text} ..."), spent=spent)
    env.write("\n".join(_screen(plan)))
    return Outcome(plan)


def _refuse_sweep(recipe: str, sets: list[str]) -> None:
    from kdcli.recipe import shipped

    if not is_sweep(shipped.locate(recipe)):
        return
    from kdcli.recipe.document import shown_as
    from kdcli.recipe.sweep import load_sweep

    sweep = load_sweep(recipe, sets=sets)
    cell = sweep.cells[0]
    base = shown_as(cell.base).removeprefix("recipes/").removesuffix(".toml") if shipped.name_of(cell.base) else str(cell.base)
    settings = [f"{key}={value}" for key, value in cell.sets.items()]
    hint = shlex.join(["kd", "plan", base, *(part for text in settings for part in ("-s", text))])
    raise UsageError(f"{recipe} is a sweep of {words.plural(len(sweep.runs()), 'run')}, and a plan is of one", hint=f"{hint}  (its first)")


# ---- the screen ------------------------------------------------------------------------------------------------------


def _screen(plan: Plan) -> Iterator[str]:
    yield f"kd {__version__} · plan of {plan.command}"
    yield from _what(plan)
    yield ""
    yield from _choices(plan)
    yield ""
    yield from _seconds(plan)
    yield from _room(plan)
    for note in plan.notes:
        yield from _labelled("note", note)


def _what(plan: Plan) -> Iterator[str]:
    untrained = {(network.architecture) for first in plan.first for network in first.networks[-1:]}
    rows = [
        (
            network.role,
            network.architecture,
            words.count(network.parameters),
            f"{words.count(network.macs)} MACs",
            "to be trained first" if not network.checkpoint and network.architecture in untrained else "",
        )
        for network in plan.networks
    ]
    yield from columns(rows, "<<>><")
    splits = [f"{words.thousands(size)} {name}" for size, name in ((plan.train, "train"), (plan.val, "val"), (plan.test, "test")) if size]
    yield f"  data     {plan.data} · {' · '.join(splits)}"
    stages = [f"{stage.name} {stage.epochs}" for stage in plan.stages]
    epochs = f"{plan.stages[0].epochs} epochs" if len(stages) == 1 else f"epochs {', '.join(stages)}"
    yield f"  train    {plan.method} · {epochs} × {plan.stages[0].batches} steps · batch {plan.batch_size}"


def _choices(plan: Plan) -> Iterator[str]:
    several = sum(choice.what == "stored_logits" for choice in plan.choices) > 1
    for choice in plan.choices:
        value = _STORED[choice.value] if choice.what == "stored_logits" else choice.value
        of = f" of {choice.of}" if several and choice.of else ""
        yield from _labelled(_CHOICES[choice.what], f"{value}{of}   {choice.reason}")


def _labelled(label: str, text: str) -> Iterator[str]:
    """A line with a label, wrapped so that what follows stays clear of the labels."""
    width = min(shutil.get_terminal_size().columns, _WIDEST) - 1
    yield from textwrap.wrap(text, width, initial_indent=f"  {label:<12}", subsequent_indent=" " * 14, break_long_words=False)


def _seconds(plan: Plan) -> Iterator[str]:
    rows = [("in all", words.duration(plan.seconds), "")]
    for field in fields(plan.parts):
        seconds = getattr(plan.parts, field.name)
        if seconds >= 0.05 or field.name == "training":
            rows.append((f"  {_LABELS[field.name]}", words.duration(seconds), _remark(plan, field.name)))
    yield from columns(rows, "<><")


def _remark(plan: Plan, part: str) -> str:
    if part == "training":
        steps = ", ".join(f"{1000 * stage.step_seconds:.1f}" for stage in plan.stages)
        return f"{steps} ms a step, {words.thousands(round(plan.images_per_second))} images/s{_asked(plan)}"
    if part == "teachers":
        return words.listed([f"{first.networks[-1].architecture}, {first.epochs} epochs" for first in plan.first])
    compiled = any(choice.what == "compile" and choice.value == "on" for choice in plan.choices)
    return "compiling" if part == "first_steps" and compiled else ""


def _asked(plan: Plan) -> str:
    if not plan.tables:
        return ""
    images = sum(stage.epochs for stage in plan.stages)
    share = sum(stage.asked * stage.epochs for stage in plan.stages) / images
    return f"; teacher asked for {share:.0%} of them"


def _room(plan: Plan) -> Iterator[str]:
    what = "of the whole process" if any(choice.what == "device" and choice.value == "cpu" for choice in plan.choices) else "on the device"
    memory = "unknown" if plan.peak_memory_mib is None else f"{words.thousands(round(plan.peak_memory_mib))} MiB at most, {what}"
    yield f"  memory    {memory}"
    yield f"  disk      {words.disk(plan.run_bytes)} a run, {words.disk(plan.state_bytes)} more while it goes on"
    for table in plan.tables:
        yield f"            {words.disk(table.bytes)} of teacher logits, {_there(table)}"


def _there(table: PlannedTable) -> str:
    if Path(table.path).exists():
        return f"{table.stored / max(table.rows, 1):.0%} of them stored: {table.path}"
    return f"not there yet: {Path(table.path).parent}"
