"""Whether the answers of a job's teachers are stored and looked up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcli import tasks
from kdcli.core.types import Feed
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime
from kdcli.errors import Incompatible
from kdcli.jobs.build.datasets import augmentation
from kdcli.jobs.build.logit_cache import Stored, Views, Wanted, store
from kdcli.jobs.build.method import method_class
from kdcli.jobs.build.teachers import LoadedTeacher
from kdcli.recipe.schema import DistillRecipe, Recipe, TeacherSection


def stored_for(
    recipe: Recipe,
    teachers: tuple[LoadedTeacher, ...],
    feed: Feed,
    runtime: Runtime,
    decided: Sequence[Wanted] | None,
    runs: int,
    trial_tables: Path | None,
) -> tuple[Stored, ...]:
    """For each teacher, whether its answers are looked up."""
    if not isinstance(recipe, DistillRecipe):
        return ()
    if not (task := tasks.named(feed.info.task)).fixed_shape:
        answered = f"what a {task.sample} is answered depends on those before it"
        return tuple(_never(section, recipe.method.name, answered) for section in recipe.teacher)
    if not method_class(recipe.method.name).cacheable:
        return tuple(_never(section, recipe.method.name) for section in recipe.teacher)
    views = Views(
        feed.info,
        augmentation(recipe.data),
        recipe.train.epochs,
        runs,
        decode=recipe.runtime.decode,
    )
    off: list[Wanted] = ["off"] * len(teachers)
    asked = [section.cache for section in recipe.teacher] if decided is None else [*decided, *off]
    return tuple(
        Stored(None, Choice("off", "the answers are ready-made"))
        if section.logits is not None
        else store(wanted, loaded, views.of(section), runtime, trial_tables)
        for wanted, loaded, section in zip(asked, teachers, recipe.teacher, strict=False)
    )


def _never(section: TeacherSection, method: str, reason: str | None = None) -> Stored:
    """The choice for a method, or data, that stored logits do not serve.

    Raises:
        Incompatible: they were asked for.
    """
    reason = reason or f"{method} asks its teacher for more than logits"
    if section.cache == "exact":
        raise Incompatible(
            f"teacher.cache is exact, and {reason}",
            hint='teacher.cache = "off"',
        )
    return Stored(None, Choice("off", reason))
