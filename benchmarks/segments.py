"""kd's own loop, an epoch at a time, so that several configurations can take turns in one process.

A segment is one whole epoch of the engine's Trainer. Its first steps come before the clock starts,
as the end of an epoch that an interrupted run goes on with: so what a first step pays once
(compilation, momentum) is not counted, and what an epoch costs (its order, its views, reading the
meters) is.

All segments run in the main thread. A thread for each configuration would keep its Trainer alive,
but OpenMP gives every thread that computes a pool of its own and, once there are more of them than
cores, lets all of them sleep between two loops.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional

from benchmarks.figures import Timed
from benchmarks.pairs import BATCH, Pair
from benchmarks.textbook import synchronise
from kdcli.engine.events import EpochDone, Event, StepDone
from kdcli.engine.hardware import Choice
from kdcli.engine.optim import make_optimiser
from kdcli.engine.position import Position
from kdcli.engine.trainer import Hooks, Trainer, set_modes
from kdcli.jobs.build.engine_settings import train_settings
from kdcli.jobs.build.job import Job, build_job
from kdcli.recipe.resolve import resolve
from kdcli.recipe.schema import Recipe, TeacherSection

Numerics = Literal["fp32", "auto", "graphs"]
Cache = Literal["exact", "off"]

WARM_STEPS = {"cpu": 2, "cuda": 20}  # on a GPU libraries choose their algorithms in the first
_ROWS = 1 << 16  # of a table of logits, at a time


@dataclass(frozen=True, slots=True)
class Place:
    """Where a benchmark computes. threads: of the CPU; torch's own choice unless given."""

    data: Path
    threads: int | None = None
    device: str = "auto"


def recipe_values(pair: Pair, place: Place, numerics: Numerics, *, batches: int) -> dict[str, Any]:
    """What every recipe of a pair says, by dotted key. batches: of an epoch; epochs are as many as
    make the table's steps.
    """
    values = {
        "data.name": "npz",
        "data.path": str(place.data),
        "data.augment.crop": pair.crop,
        "data.augment.flip": pair.flip,
        "train.batch_size": BATCH,
        "train.epochs": -(-pair.steps // batches),
        "runtime.device": place.device,
        "report.html": False,
        "report.probe": 0,
        **pair.optim,
    }
    if place.threads is not None:
        values["runtime.threads"] = place.threads
    if numerics == "fp32":
        values["runtime.precision"] = "fp32"
    if numerics == "graphs":
        values["runtime.graphs"] = "on"
    return values


def distill_values(
    pair: Pair, place: Place, numerics: Numerics, *, batches: int, teacher: Path, cache: Cache
) -> dict[str, Any]:
    """The same for a recipe that distils a pair's student by vanilla distillation."""
    values = recipe_values(pair, place, numerics, batches=batches)
    return {
        **values,
        "student.name": pair.student,
        "teacher.checkpoint": str(teacher),
        "teacher.cache": cache,
        "method.name": "kd",
    }


def distill_recipe(
    pair: Pair, place: Place, numerics: Numerics, *, batches: int, teacher: Path, cache: Cache
) -> Recipe:
    """The student under its teacher."""
    values = distill_values(pair, place, numerics, batches=batches, teacher=teacher, cache=cache)
    return resolve("distill", values=values).recipe


def plain_recipe(pair: Pair, place: Place, numerics: Numerics, *, batches: int) -> Recipe:
    """The student with labels alone."""
    values = {
        "model.name": pair.student,
        "method.name": "none",
        **recipe_values(pair, place, numerics, batches=batches),
    }
    return resolve("train-teacher", values=values).recipe


def write_recipe(
    path: Path, pair: Pair, place: Place, teacher: Path, changes: Mapping[str, Any]
) -> Path:
    """A file for `kd distill` at the automatic settings. changes: values by dotted key."""
    values = distill_values(pair, place, "auto", batches=1, teacher=teacher, cache="off") | dict(
        changes
    )
    path.write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()), encoding="utf-8"
    )
    return path


class Engine:
    """kd as `kd distill` and `kd train-teacher` run it, without validation, probe, states and
    report.

    Args:
        recipe: of either kind; a teacher is a checkpoint.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.job: Job = build_job(recipe, _no_recipe)
        self._epoch = 1  # the next to train

    @property
    def choices(self) -> dict[str, dict[str, str]]:
        """What kd chose for this job, and why."""
        found = {
            name.removesuffix("_choice"): value
            for name, value in vars(self.job.runtime).items()
            if isinstance(value, Choice)
        }
        if self.job.stored:
            found["teacher_logits"] = self.job.stored[0].choice
        return {
            name: {"value": choice.value, "reason": choice.reason} for name, choice in found.items()
        }

    def segment(self) -> Timed:
        """Train for an epoch that no segment has trained before."""
        return self.epochs(1)[0]

    def epochs(self, count: int) -> list[Timed]:
        """Train for so many epochs at one go, each timed."""
        job, watch = self.job, _Watch(self.job.runtime.device)
        first, self._epoch = self._epoch, self._epoch + 1 + count
        trainer = Trainer(
            job.method,
            job.feed,
            job.runtime,
            replace(train_settings(job.recipe), epochs=first + count),
            hooks=Hooks(listeners=[watch]),
        )
        warm = WARM_STEPS[job.runtime.device.type]
        trainer.position = Position(epoch=first, batch=max(job.feed.train_batches - warm, 0))
        trainer.run()
        return watch.timed()


class _Watch:
    """Listener that times every epoch but the first."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []
        self.images: list[int] = []
        self._seen = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self._seen = event.seen
        elif isinstance(event, EpochDone):
            synchronise(self.device)
            self.ends.append(time.perf_counter())
            self.images.append(self._seen)

    def timed(self) -> list[Timed]:
        return [
            Timed(images, end - start)
            for start, end, images in zip(self.ends, self.ends[1:], self.images[1:], strict=False)
        ]


class Bare:
    """The floor: the student's forward pass, cross-entropy, backward pass and step, on batches that
    are ready, and nothing else.

    Args:
        engine: plain training of the student. A job of its own is made from its recipe, so that
            precision, layout, compilation and optimiser are what kd chose.
    """

    def __init__(self, engine: Engine) -> None:
        self.job = build_job(engine.job.recipe, _no_recipe)
        self.network = self.job.method.deployable()
        (stage,) = self.job.method.stages()
        set_modes(self.job.method, stage)
        self.optimiser = make_optimiser(
            self.network.parameters(), train_settings(self.job.recipe).optim
        )

    @cached_property
    def batches(self) -> Sequence[Any]:
        """An epoch's batches on the device, in the layout that kd chose."""
        return [self.job.runtime.place(batch) for batch in self.job.feed.train(1)]

    def segment(self) -> Timed:
        """Train on every batch."""
        device = self.job.runtime.device
        for batch in self.batches[: WARM_STEPS[device.type]]:
            self._step(batch)
        synchronise(device)
        start = time.perf_counter()
        for batch in self.batches:
            self._step(batch)
        synchronise(device)
        return Timed(sum(len(batch.y) for batch in self.batches), time.perf_counter() - start)

    def _step(self, batch: Any) -> None:
        runtime = self.job.runtime
        with runtime.stepping(batch), runtime.autocast():
            logits = self.network(batch.x).logits
        runtime.backward(functional.cross_entropy(logits.float(), batch.y))
        runtime.step(self.optimiser, None)


def fill_with_noise(engine: Engine) -> None:
    """Store an answer to every view of every picture of a job whose teacher's logits are stored.

    Made up, because computing them would take longer than the benchmark and a look-up costs the
    same whatever it finds.
    """
    (stored,) = engine.job.stored
    assert stored.teacher is not None
    table, generator = stored.teacher.table, torch.Generator().manual_seed(0)
    for start in range(0, table.shape.rows, _ROWS):
        rows = torch.arange(start, min(start + _ROWS, table.shape.rows))
        logits = torch.randn(len(rows), table.shape.classes, generator=generator)
        table.write(rows // table.shape.views, rows % table.shape.views, logits.half())
    assert table.filled == table.shape.rows


def show_choices(choices: Mapping[str, Mapping[str, str]]) -> str:
    """In one line."""
    return "; ".join(
        f"{name} {choice['value']} ({choice['reason']})" for name, choice in choices.items()
    )


def _no_recipe(section: TeacherSection) -> Path:
    raise AssertionError(f"a benchmark's teacher is a checkpoint: {section}")
