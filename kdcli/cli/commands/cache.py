"""`kd cache`: a teacher's logits on disk, ahead of time, for all the students that will ask for
them.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli import formatting
from kdcli.cli import options as o
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.results.logits import StoredLogits

NAME = "cache"
EXAMPLES = """
kd cache --teacher runs/cnn-large-digits-1
kd cache cifar10/kd-resnet56-resnet20 --size
"""
_STEPS = 20  # lines of progress

SizeOnly = Annotated[
    bool, typer.Option("--size", help="Say how large the table would be, and make nothing.")
]


@o.takes("teacher", "teacher_classes", "data", "device")
def run(
    env: Environment,
    recipe: o.RecipeFile = None,
    *,
    sets: o.Sets = None,
    out: o.Out = None,
    size: SizeOnly = False,
    trust: o.Trust = False,
    **flags: Any,
) -> Outcome:
    """Store a teacher's logits ahead of its students.

    `kd distill` stores them as they come up, where it pays (teacher.cache). This fills the table at
    once, for every view of the training images: give what the students will be given. Interrupted,
    the same command goes on. Tables lie under $KD_CACHE_DIR, else ~/.cache/kdcli.
    """
    from kdcli.recipe.resolve import resolve

    resolved = resolve(
        "distill", file=recipe, sets=sets or (), flags=o.overrides(flags), environ=env.environ
    )
    from kdcli import jobs

    narrator = _Narrator(env)
    command = shlex.join(["kd", *env.argv])
    result = jobs.fill_cache(
        resolved,
        out=runs_dir(env.environ, out),
        tell=narrator,
        command=command,
        size_only=size,
        trust=trust,
    )
    for table in result.tables:
        if size:
            env.answer(f"  {_size(table)}")
        else:
            env.answer(
                ("✓", "green"),
                (
                    f" {formatting.thousands(table.stored)} of "
                    f"{formatting.thousands(table.rows)} answers "
                    f"stored   {table.path}"
                ),
            )
            for line in (*_left_out(table), *_error(table)):
                env.answer(f"  {line}")
    return Outcome(result)


def _size(table: StoredLogits) -> str:
    if table.sample == "token":
        answers = (
            f"{table.classes:,} tokens"
            if table.top is None
            else f"the {table.top:,} largest of {table.classes:,} tokens"
        )
        return (
            f"{table.teacher}: {formatting.thousands(table.images)} tokens × {answers}, "
            f"{table.bytes // max(table.rows, 1):,} bytes each, {formatting.disk(table.bytes)}"
        )
    views = formatting.plural(table.views, "view")
    classes = (
        f"{table.classes} classes"
        if table.top is None
        else f"the {table.top} largest of {table.classes} classes"
    )
    return (
        f"{table.teacher}: {formatting.thousands(table.images)} {table.sample}s × {views} × "
        f"{classes}, {formatting.disk(table.bytes)}"
    )


def _error(table: StoredLogits) -> Iterator[str]:
    for item in table.error:
        count = formatting.thousands(item.count)
        at = f"at temperature {formatting.temperature(item.temperature)}"
        yield (
            f"off from the teacher's own by {item.mean:.1e} nats {at}, at most {item.max:.1e} "
            f"(KL, {count} of them)"
        )


def _left_out(table: StoredLogits) -> Iterator[str]:
    """What is not stored, and the bound on what that costs."""
    if table.left_out is None or table.bound is None or table.top is None:
        return
    others = math.log(table.classes - table.top)
    yield (
        f"left out: {table.left_out:.2%} of the probability on average; at temperature 1 that "
        f"costs at most {table.left_out * others:.2g} nats on average, {table.bound:.2g} of any "
        f"(the share times log {table.classes - table.top:,})"
    )


class _Narrator:
    """Says the size first, then how far it is."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._said: dict[str, int] = {}

    def __call__(self, table: StoredLogits) -> None:
        if not table.path:
            self._env.progress(f"  {_size(table)}")
            return
        step = table.stored * _STEPS // max(table.rows, 1)
        if self._said.get(table.path) != step:
            self._said[table.path] = step
            self._env.progress(
                f"  {step / _STEPS:.0%}  {formatting.thousands(table.stored)} of "
                f"{formatting.thousands(table.rows)} stored"
            )
