"""Filling a table of teacher logits ahead of time, so that every student finds all of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from kdcli import tasks
from kdcli.core.types import Batch, Feed
from kdcli.data.text import TextFeed
from kdcli.engine.runtime import Runtime
from kdcli.engine.teachers.cached import CachedTeacher
from kdcli.engine.teachers.fill import divergence, fill
from kdcli.engine.teachers.stored_text import StoredText, divergence_of_text, fill_text
from kdcli.errors import Incompatible, UsageError
from kdcli.jobs.build.engine_settings import make_runtime
from kdcli.jobs.build.job import load_teachers, showing, training_feed
from kdcli.jobs.build.logit_cache import Views, store
from kdcli.jobs.build.recipe_checks import check_sources
from kdcli.jobs.build.storing import WINDOWS_HINT, moving_windows, views_of
from kdcli.jobs.build.teachers import LoadedTeacher
from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.processes import devices
from kdcli.jobs.processes.signals import StopRequest
from kdcli.jobs.train.run import teacher_run
from kdcli.recipe.resolve import Resolved
from kdcli.recipe.schema import DistillRecipe, Recipe, TeacherSection
from kdcli.results.logits import CacheResult, StoredError, StoredLogits

Tell = Callable[[StoredLogits], None]

_CHUNK = 512  # views at a time
_SAMPLE = 1024  # views whose stored answers are compared with the teacher's own
_TEMPERATURES = (1.0, 4.0)


def fill_cache(
    resolved: Resolved,
    *,
    out: Path,
    tell: Tell = lambda _table: None,
    command: str = "kd cache",
    size_only: bool = False,
    trust: bool = False,
) -> CacheResult:
    """Stores the answers that a recipe's teachers have not given yet, and compares a sample.

    They answer every view of every training image.

    Args:
        out: folder of the runs, where a teacher that is named by recipe is found or trained.
        tell: told each table before it is filled, and after every chunk.
        command: what goes on after an interruption.
        size_only: make nothing; say what there would be.
        trust: whether Python files run that somebody else than the caller has named.

    Raises:
        UsageError: the recipe has no teacher. Incompatible: its views cannot be counted.
        DiskFull: there is no room. Interrupted, Terminated: what is stored stays.
    """
    devices.refuse_torchrun("kd cache")
    with trusted_recipe(resolved, trust=trust):
        return _fill_all(resolved.recipe, out, tell, command, size_only=size_only)


def _fill_all(
    recipe: Recipe, out: Path, tell: Tell, command: str, *, size_only: bool
) -> CacheResult:
    if not isinstance(recipe, DistillRecipe) or not recipe.teacher:
        raise UsageError(
            "there is no teacher whose logits could be stored",
            hint="kd cache --teacher RUN, or a recipe with [teacher]",
        )
    runtime = make_runtime(recipe)

    def trained(section: TeacherSection) -> Path:
        return teacher_run(section, recipe, out=out)

    check_sources(recipe)
    for file in (section.logits for section in recipe.teacher if section.logits is not None):
        raise Incompatible(
            f"the answers of {file} are ready-made: there is nothing to store",
            hint="kd distill reads them as they are",
        )
    feed = training_feed(recipe, runtime, trained)
    every = views_of(recipe, feed)
    asked = [every.of(section) for section in recipe.teacher]
    if size_only:
        names = [str(item.checkpoint or item.recipe or item.name) for item in recipe.teacher]
        return CacheResult(
            tuple(_planned(name, views) for name, views in zip(names, asked, strict=True))
        )
    if every.reading is None:
        runtime.look_ahead(recipe.runtime.teacher_batch, recipe.train.batch_size)
    teachers = load_teachers(recipe, feed, runtime, trained)
    for loaded in teachers:
        if reason := moving_windows(recipe, loaded):
            raise Incompatible(f"answers cannot be stored: {reason}", hint=WINDOWS_HINT)
    feed = showing(feed, teachers)
    filled = (
        _fill(loaded, views, feed, runtime, tell, command)
        for loaded, views in zip(teachers, asked, strict=True)
    )
    return CacheResult(tuple(filled))


def _planned(teacher: str, views: Views) -> StoredLogits:
    shape = views.shape
    if shape is None:
        raise Incompatible(f"{views.uncountable}: its answers cannot be stored", hint=views.remedy)
    return StoredLogits(
        teacher,
        "",
        shape.samples,
        shape.views,
        shape.classes,
        shape.bytes,
        0,
        shape.top,
        sample=tasks.named(views.info.task).sample,
    )


def _fill(
    loaded: LoadedTeacher, views: Views, feed: Feed, runtime: Runtime, tell: Tell, command: str
) -> StoredLogits:
    planned = _planned(loaded.summary.checkpoint, views)
    tell(planned)
    cached = store("exact", loaded, views, runtime).teacher
    assert isinstance(cached, CachedTeacher)
    table = replace(planned, path=str(cached.table.path), stored=cached.table.filled)
    tell(table)

    def batch_of(index: Tensor, view: Tensor) -> Batch:
        return runtime.place(feed.view(index, view))

    with StopRequest(command, kept="what is stored stays") as stop, runtime.autocast():

        def done(stored: int, _total: int) -> None:
            tell(replace(table, stored=stored))
            error = stop()
            if error is not None:
                raise error

        if isinstance(cached, StoredText):
            assert isinstance(feed, TextFeed)
            fill_text(cached, feed, done=done)
            error = divergence_of_text(cached, feed, temperatures=_TEMPERATURES, most=_SAMPLE)
        else:
            fill(cached, batch_of, chunk=_CHUNK, done=done)
            error = divergence(
                cached, batch_of, temperatures=_TEMPERATURES, most=_SAMPLE, chunk=_CHUNK
            )
    found = replace(
        table,
        stored=cached.table.filled,
        error=tuple(StoredError(**asdict(item)) for item in error),
    )
    if table.top is None:
        return found
    mean, most = cached.table.left_out()
    return replace(found, left_out=mean, bound=most * math.log(table.classes - table.top))
