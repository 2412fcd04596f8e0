"""`kd plan`: what a recipe or a sweep will take and what will be chosen for it, from some of its
steps. Nothing is kept.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kdcli import __version__, formatting
from kdcli.cli import options as o
from kdcli.cli.commands.check import is_sweep
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.text import columns, terminal_columns
from kdcli.errors import UsageError
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from pathlib import Path

    from kdcli.results.plan import Plan, PlannedCells, PlannedTable, SweepPlan

NAME = "plan"
EXAMPLES = """
kd plan quickstart
kd plan digits/methods
kd plan quickstart-teacher --json -q | jq .data.seconds
"""
_WIDEST = 100  # columns
_LABEL = 14  # of them for labels
_LEAST = 0.05  # seconds that are worth a line
_PARTS = {
    "start": "start",
    "teachers": "teacher",
    "first_steps": "first steps",
    "training": "training",
    "evaluation": "evaluation",
    "probes": "probes",
    "upkeep": "upkeep",
    "report": "report",
}
_CHOICES = {
    "device": "device",
    "precision": "precision",
    "teacher_precision": "teacher in",
    "teacher_batch": "teacher asked",
    "compile": "compile",
    "graphs": "CUDA graphs",
    "stored_logits": "logits",
}
_STORED = {"exact": "stored", "off": "not stored"}


@o.takes(
    "teacher",
    "teacher_classes",
    "method",
    "student",
    "model",
    "data",
    "epochs",
    "seed",
    "device",
    "precision",
)
def run(
    env: Environment,
    recipe: o.RecipeFile = None,
    *,
    sets: o.Sets = None,
    out: o.Out = None,
    trust: o.Trust = False,
    **flags: Any,
) -> Outcome:
    """Say what a recipe or a sweep will take, and keep nothing.

    Some minibatches of each stage are trained on and everything around them is gone through once,
    as kd distill or kd train-teacher would: seconds, memory, disk, and each automatic choice with
    its reason. A teacher that is yet to be trained is planned first. Of a sweep: what is done, and
    how long the rest will take, by what finished runs took or else by some steps of one of each
    kind.
    """
    if recipe is not None and _is_sweep(recipe):
        return _of_sweep(env, recipe, sets or [], flags, out, trust=trust)
    from kdcli.recipe.resolve import kind_of, resolve

    kind = (
        kind_of(recipe) if recipe is not None else "train-teacher" if flags["model"] else "distill"
    )
    resolved = resolve(
        kind, file=recipe, sets=sets or (), flags=o.overrides(flags), environ=env.environ
    )
    from kdcli import jobs

    spent = time.process_time()  # that of the imports, as the run will make them too
    plan = jobs.forecast(
        resolved,
        out=runs_dir(env.environ, out),
        tell=lambda text: env.progress(f"  {text} ..."),
        spent=spent,
        trust=trust,
    )
    env.write("\n".join(_screen(plan)))
    return Outcome(plan)


def _is_sweep(recipe: str) -> bool:
    from kdcli.recipe import shipped

    return is_sweep(shipped.locate(recipe))


def _of_sweep(
    env: Environment,
    sweep: str,
    sets: list[str],
    flags: dict[str, Any],
    out: Path | None,
    *,
    trust: bool,
) -> Outcome:
    if given := [f"--{name.replace('_', '-')}" for name, value in flags.items() if value]:
        raise UsageError(
            f"{sweep} is a sweep, whose cells say that themselves: {given[0]} is for one run",
            hint=f"kd plan {sweep} -s KEY=VALUE, for all of its cells",
        )
    from kdcli import jobs
    from kdcli.recipe.sweep.cells import load_sweep

    plan = jobs.forecast_sweep(
        load_sweep(sweep, sets=sets),
        out=runs_dir(env.environ, out),
        tell=lambda text: env.progress(f"  {text} ..."),
        trust=trust,
    )
    env.write("\n".join(_sweep_screen(plan)))
    return Outcome(plan)


def _sweep_screen(plan: SweepPlan) -> Iterator[str]:
    """What a sweep will take, a line a kind of run."""
    yield f"kd {__version__} · plan of kd sweep {plan.sweep}"
    stopped = f" · {plan.stopped} stopped, and will go on" if plan.stopped else ""
    left = plan.count - plan.done
    yield from _labelled(
        "runs", f"{formatting.plural(plan.count, 'run')} · {plan.done} done · {left} left{stopped}"
    )
    yield ""
    rows = [
        (
            _kind_of_run(each),
            str(each.runs - each.done),
            formatting.MISSING if each.seconds is None else formatting.duration(each.seconds),
            {"measured": f"as {each.done} took", "planned": "planned", "unknown": each.problem}[
                each.source
            ],
        )
        for each in plan.groups
    ]
    yield from columns([("runs that cost alike", "left", "each", ""), *rows], "<>><")
    yield ""
    total = formatting.MISSING if plan.seconds is None else formatting.duration(plan.seconds)
    yield from _labelled("in all", f"{total} for what is left, one run after another")
    yield from _labelled("disk", f"{formatting.disk(plan.bytes)} more under the runs")
    for table in plan.tables:
        yield from _labelled(
            "", f"{formatting.disk(table.bytes)} of teacher logits, {_there(table)}"
        )


def _kind_of_run(each: PlannedCells) -> str:
    if each.teacher:
        return next(iter(each.labels.values()))
    return " ".join(f"{axis}={label}" for axis, label in each.labels.items()) or "all"


# ---- the screen ----------------------------------------------------------------------------------


def _screen(plan: Plan) -> Iterator[str]:
    yield f"kd {__version__} · plan of kd {plan.command}"
    yield from _networks(plan)
    splits = [
        f"{formatting.thousands(size)} {name}"
        for size, name in ((plan.train, "train"), (plan.val, "val"), (plan.test, "test"))
        if size
    ]
    yield from _labelled("data", f"{plan.data} · {' · '.join(splits)}")
    each = [f"{stage.name} {stage.epochs}" for stage in plan.stages]
    epochs = (
        formatting.plural(plan.stages[0].epochs, "epoch")
        if len(each) == 1
        else f"epochs: {', '.join(each)}"
    )
    yield from _labelled(
        "train",
        f"{plan.method} · {epochs} × {plan.stages[0].batches} steps · batch {plan.batch_size}",
    )
    yield ""
    yield from _choices(plan)
    yield ""
    yield from _seconds(plan)
    yield ""
    yield from _room(plan)
    for note in plan.notes:
        yield from _labelled("note", note)


def _labelled(label: str, text: str) -> Iterator[str]:
    """A line with a label, wrapped so that what follows stays clear of the labels."""
    width = min(terminal_columns(), _WIDEST) - 1
    indent = " " * (_LABEL + 2)
    yield from textwrap.wrap(
        text,
        width,
        initial_indent=f"  {label:<{_LABEL}}",
        subsequent_indent=indent,
        break_long_words=False,
    )


def _networks(plan: Plan) -> Iterator[str]:
    untrained = {first.networks[-1].architecture for first in plan.first}
    rows = [
        (
            f"{network.role:<{_LABEL - 2}}",
            network.architecture,
            formatting.count(network.parameters),
            f"{formatting.count(network.macs)} MACs",
            "to be trained first"
            if not network.checkpoint and network.architecture in untrained
            else "",
        )
        for network in plan.networks
    ]
    yield from columns(rows, "<<>><")


def _choices(plan: Plan) -> Iterator[str]:
    for choice in plan.choices:
        values = {
            "stored_logits": _STORED.get(choice.value, ""),
            "teacher_batch": f"{choice.value} images at once",
        }
        value = values.get(choice.what, choice.value)
        of = f" of {choice.of}" if choice.of and len(plan.tables) > 1 else ""
        yield from _labelled(_CHOICES[choice.what], f"{value}{of}, {choice.reason}")


def _seconds(plan: Plan) -> Iterator[str]:
    rows = [("in all".ljust(_LABEL - 2), formatting.duration(plan.seconds), "")]
    for field in fields(plan.parts):
        seconds = getattr(plan.parts, field.name)
        if seconds >= _LEAST or field.name == "training":
            rows.append(
                (f"  {_PARTS[field.name]}", formatting.duration(seconds), _remark(plan, field.name))
            )
    yield from columns(rows, "<><")


def _remark(plan: Plan, part: str) -> str:
    if part == "training":
        from kdcli import tasks

        steps = ", ".join(f"{1000 * stage.step_seconds:.1f}" for stage in plan.stages)
        asked = sum(stage.asked * stage.epochs for stage in plan.stages) / sum(
            stage.epochs for stage in plan.stages
        )
        looked_up = f", {1 - asked:.0%} of the teacher's answers looked up" if plan.tables else ""
        return (
            f"{steps} ms a step, {formatting.thousands(round(plan.images_per_second))} "
            f"{tasks.of_data(plan.data).sample}s/s{looked_up}"
        )
    if part == "teachers":
        return formatting.listed(
            [
                f"{first.networks[-1].architecture}, {formatting.plural(first.epochs, 'epoch')}"
                for first in plan.first
            ]
        )
    compiled = any(choice.what == "compile" and choice.value == "on" for choice in plan.choices)
    return "compiling" if part == "first_steps" and compiled else ""


def _room(plan: Plan) -> Iterator[str]:
    where = (
        "of the process"
        if any(choice.what == "device" and choice.value == "cpu" for choice in plan.choices)
        else "on the device"
    )
    memory = (
        formatting.MISSING
        if plan.peak_memory_mib is None
        else f"{formatting.thousands(round(plan.peak_memory_mib))} MiB {where} at most"
    )
    yield from _labelled("memory", memory)
    yield from _labelled(
        "disk",
        (
            f"{formatting.disk(plan.run_bytes)} a run, and "
            f"{formatting.disk(plan.state_bytes)} of states "
            "until it is finished"
        ),
    )
    for table in plan.tables:
        yield from _labelled(
            "", f"{formatting.disk(table.bytes)} of teacher logits, {_there(table)}"
        )


def _there(table: PlannedTable) -> str:
    if not table.stored:
        return f"none stored yet: {table.path}"
    return f"{table.stored / table.rows:.0%} of them stored: {table.path}"
