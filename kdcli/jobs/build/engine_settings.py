"""The engine's view of a recipe: where it computes, and for how long it trains."""

from __future__ import annotations

from kdcli.core.class_weights import ClassWeights
from kdcli.engine.runtime import Runtime
from kdcli.engine.settings import OptimSettings, ScheduleSettings, TrainSettings
from kdcli.jobs.build.datasets import augmentation
from kdcli.jobs.processes import devices
from kdcli.recipe.schema import Recipe


def make_runtime(recipe: Recipe) -> Runtime:
    """The runtime that [runtime] asks for."""
    section = recipe.runtime
    return Runtime(
        section.device,
        precision=section.precision,
        teacher_precision=section.teacher_precision,
        channels_last=section.channels_last,
        graphs=section.graphs,
        threads=devices.own_threads(section),
        index=devices.local_rank(),
    )


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
        keep_every=train.keep_every,
        state_seconds=train.state_seconds,
        class_weights=class_weights,
        mixes=augmentation(recipe.data).mixes,
        optim=OptimSettings(recipe.optim.name, recipe.optim.model_dump(exclude={"name"})),
        schedule=ScheduleSettings(**schedule),
    )
