"""`--dry-run`: everything is built, one minibatch goes through every stage, nothing is written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from kdcli.core.types import Progress
from kdcli.engine.checkpoint import save_model
from kdcli.engine.trainer import set_modes
from kdcli.jobs.build.header import make_header
from kdcli.jobs.build.job import Job, build_job
from kdcli.recipe.resolve import teacher_recipe
from kdcli.recipe.schema import Recipe, TeacherSection
from kdcli.recipe.writing import recipe_hash
from kdcli.results.weights_header import MODEL_FILE
from kdcli.runs.find import finished_runs


def try_out(recipe: Recipe, out: Path) -> None:
    """Builds everything and puts a minibatch through every stage. A teacher that is yet to be
    trained is tried with fresh weights.
    """
    with tempfile.TemporaryDirectory() as folder:

        def teacher(section: TeacherSection) -> Path:
            resolved, _ = teacher_recipe(section, recipe)
            done = finished_runs(out).get(recipe_hash(resolved.recipe))
            return (
                done
                if done is not None
                else _untrained(resolved.recipe, Path(folder) / recipe_hash(resolved.recipe))
            )

        _try_one_batch(build_job(recipe, teacher, decided=(), compiled="off"))


def _untrained(recipe: Recipe, folder: Path) -> Path:
    """The checkpoint that a teacher's recipe begins with."""
    # train-teacher has no teacher
    job = build_job(recipe, lambda _section: folder, decided=(), compiled="off")
    _try_one_batch(job)
    save_model(
        folder / MODEL_FILE,
        job.method.deployable(),
        make_header(job, job.method.deployable(), None, ""),
    )
    return folder


def _try_one_batch(job: Job) -> None:
    batch = job.runtime.place(next(iter(job.feed.train(1))))
    for stage in job.method.stages():
        set_modes(job.method, stage)
        at = Progress(stage.name, 1, 1, 0, 1)
        job.method.on_epoch(at)
        with torch.random.fork_rng(), job.runtime.autocast():
            step = stage.loss(batch, at)
        job.runtime.backward(torch.stack([value.float() for value in step.losses.values()]).sum())
