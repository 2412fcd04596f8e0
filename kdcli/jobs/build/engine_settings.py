"""The engine's view of a recipe: where it computes, and for how long it trains."""

from __future__ import annotations

from kdcli import tasks
from kdcli.core.class_weights import ClassWeights
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime
from kdcli.engine.settings import OptimSettings, ScheduleSettings, TrainSettings
from kdcli.jobs.build.datasets import augmentation
from kdcli.jobs.processes import devices
from kdcli.recipe.schema import Recipe


def make_runtime(recipe: Recipe) -> Runtime:
    """The runtime that [runtime] asks for."""
    section, task = recipe.runtime, tasks.of_data(recipe.data.name)
    settled = section.precision == "auto" and not task.half_precision
    runtime = Runtime(
        section.device,
        precision="fp32" if settled else section.precision,
        teacher_precision=section.teacher_precision,
        channels_last=section.channels_last,
        graphs=section.graphs,
        threads=devices.own_threads(section),
        index=devices.local_rank(),
        shard_teacher=section.shard_teacher,
    )
    if settled:
        reason = f"auto: never less for {task.name.replace('-', ' ')}"
        runtime.precision_choice = Choice("fp32", reason)
    return runtime


def train_settings(recipe: Recipe, class_weights: ClassWeights | None = None) -> TrainSettings:
    """The engine's view of [train], [optim] and [schedule]. class_weights: those of the job."""
    train = recipe.train
    schedule = recipe.schedule.model_dump()
    return TrainSettings(
        epochs=train.epochs,
        seed=recipe.seed,
        accumulate=train.accumulate,
        clip_norm=train.clip_norm,
        ema=train.ema,
        average_after=train.average_after,
        patience=train.patience,
        keep_every=train.keep_every,
        state_seconds=train.state_seconds,
        class_weights=class_weights,
        mixes=augmentation(recipe.data).mixes,
        optim=OptimSettings(
            recipe.optim.name, recipe.optim.model_dump(exclude={"name"}, exclude_none=True)
        ),
        schedule=ScheduleSettings(**schedule),
    )
