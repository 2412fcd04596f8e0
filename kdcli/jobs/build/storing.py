"""Whether the answers of a job's teachers are stored and looked up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcli.core.types import Feed
from kdcli.data.text import TextFeed
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
    name, cls = recipe.method.name, method_class(recipe.method.name)
    if not cls.cacheable:
        return tuple(_never(section, name) for section in recipe.teacher)
    views = views_of(recipe, feed, runs)
    if views.reading is not None and cls.writes_on:
        reason = f"{name} asks its teacher about text that it wrote itself"
        return tuple(_never(section, name, reason) for section in recipe.teacher)
    off: list[Wanted] = ["off"] * len(teachers)
    asked = [section.cache for section in recipe.teacher] if decided is None else [*decided, *off]
    return tuple(
        Stored(None, Choice("off", "the answers are ready-made"))
        if section.logits is not None
        else _stored(recipe, wanted, loaded, views.of(section), runtime, trial_tables)
        for wanted, loaded, section in zip(asked, teachers, recipe.teacher, strict=False)
    )


def views_of(recipe: Recipe, feed: Feed, runs: int = 1) -> Views:
    """What a recipe's teachers are asked."""
    return Views(
        feed.info,
        augmentation(recipe.data),
        recipe.train.epochs,
        runs,
        decode=recipe.runtime.decode,
        reading=feed.layout if isinstance(feed, TextFeed) else None,
    )


def _stored(
    recipe: Recipe,
    wanted: Wanted,
    loaded: LoadedTeacher,
    views: Views,
    runtime: Runtime,
    trial_tables: Path | None,
) -> Stored:
    reason = moving_windows(recipe, loaded)
    if reason and wanted == "exact":
        raise Incompatible(f"teacher.cache is exact, and {reason}", hint=WINDOWS_HINT)
    if reason:
        return Stored(None, Choice("off", reason))
    return store(wanted, loaded, views, runtime, trial_tables)


WINDOWS_HINT = 'leave data.random_windows out, or teacher.cache = "off"'


def moving_windows(recipe: Recipe, loaded: LoadedTeacher) -> str:
    """Why the answers of a teacher that remembers nothing of a text cannot be stored, where its
    windows begin elsewhere in each epoch; "" where they can.
    """
    moving = recipe.data.options.get("random_windows") is True
    if not moving or loaded.teacher.network.context is None:
        return ""
    return (
        f"{loaded.architecture} reads each window from its beginning, and random ones begin "
        "elsewhere in each epoch"
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
