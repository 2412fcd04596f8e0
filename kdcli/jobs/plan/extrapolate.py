"""The arithmetic of `kd plan`: from some steps of each stage to a whole run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

from kdcli.jobs.build.job import Job
from kdcli.jobs.build.logit_cache import Stored
from kdcli.jobs.plan.trial_run import EPOCHS, TrialRun, TrialStage
from kdcli.recipe.writing import recipe_hash
from kdcli.results.plan import (
    Plan,
    PlannedChoice,
    PlannedNetwork,
    PlannedSeconds,
    PlannedStage,
    PlannedTable,
)
from kdcli.results.weights_header import KEPT_FOLDER, MODEL_FILE

_BY_EPOCH = ("metrics.jsonl", "log.txt")  # files of a run that grow with its epochs


def extrapolate(
    job: Job,
    trial: TrialRun,
    networks: tuple[PlannedNetwork, ...],
    first: Sequence[Plan],
    *,
    start: float,
    importing: float,
    notes: tuple[str, ...],
) -> Plan:
    """The plan of a run, extrapolated from its trial run.

    Args:
        job, trial: the run and its trial run.
        first: plans of teachers that are trained before it.
        start: seconds until its trial run began.
        importing: seconds of what the trial run's first step found imported, and the run's will
            not.
    """
    recipe, feed = job.recipe, job.feed
    lasting = [stage.epochs or recipe.train.epochs for stage in trial.stages]
    asked = list(asked_shares(job.stored, lasting))
    stages = [_stage(job, trial, *of) for of in zip(trial.stages, lasting, asked, strict=True)]
    parts = _seconds(
        trial,
        stages,
        start=start,
        teachers=sum(plan.seconds for plan in first),
        importing=importing,
    )
    tables = tuple(_tables(job.stored, networks))
    memory = trial.result.peak_memory_mib
    if memory is not None and job.runtime.device.type == "cpu":
        # a file that is looked up in is mapped into the process
        memory += sum(table.bytes for table in tables) / 2**20
    images = sum(lasting) * feed.info.num_train
    return Plan(
        command=recipe.KIND,
        recipe_sha256=recipe_hash(recipe),
        networks=networks,
        method=recipe.method.name,
        data=feed.info.name,
        train=feed.size("train"),
        val=feed.size("val"),
        test=feed.size("test"),
        epochs=recipe.train.epochs,
        batch_size=recipe.train.batch_size,
        device_name=job.runtime.device_name(),
        choices=tuple(_choices(job)),
        seconds=sum(getattr(parts, name) for name in parts.__dataclass_fields__),
        parts=parts,
        stages=tuple(stage.planned for stage in stages),
        images_per_second=images / parts.training,
        peak_memory_mib=memory,
        run_bytes=_run_bytes(trial, sum(lasting), recipe.train.keep_every),
        state_bytes=trial.state_bytes,
        tables=tables,
        probed_steps=sum(each.count for stage in trial.stages for each in stage.passes),
        first=tuple(first),
        notes=notes,
    )


# ---- time ----------------------------------------------------------------------------------------


def asked_shares(stored: Sequence[Stored], lasting: Sequence[int]) -> Iterator[float]:
    """The share of each stage's images whose answers a teacher has to compute: 1 where none are
    stored.

    An image shows one of its views in each epoch, the same ones in each stage: what one has stored,
    the next looks up.

    Args:
        stored: what was chosen for each teacher. lasting: epochs of each stage.
    """
    tables = [(item.teacher.table.shape, item.there) for item in stored if item.teacher is not None]
    if not tables:
        yield from (1.0 for _ in lasting)
        return
    views = tables[0][0].views
    missing = 1 - mean(there / shape.rows for shape, there in tables)
    seen = 0
    for epochs in lasting:
        new = _distinct(views, max(seen, epochs)) - _distinct(views, seen)
        seen = max(seen, epochs)
        yield missing * new / epochs


def _distinct(views: int, draws: int) -> float:
    """The mean number of views, of so many equally likely ones, that so many draws show."""
    return views * (1 - (1 - 1 / views) ** draws)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage, and the seconds of its parts."""

    planned: PlannedStage
    first_steps: float
    training: float
    evaluation: float
    probes: float
    upkeep: float


def _stage(job: Job, trial: TrialRun, stage: TrialStage, epochs: int, asked: float) -> _Stage:
    first, second, third = stage.passes
    new, known = first.each(), [*second.each(), *third.each()]
    stored = any(item.teacher is not None for item in job.stored)
    looked_up = median(known if stored else [*new, *known])
    computed = max(median(new), looked_up) if stored else looked_up
    step = asked * computed + (1 - asked) * looked_up
    between = third.begun - second.ended
    usual = first.count * computed + (second.count + third.count) * looked_up + EPOCHS * between
    evaluation = stage.evaluation + stage.validating * trial.feed.left_out("val")
    return _Stage(
        PlannedStage(stage.name, epochs, job.feed.train_batches, step, asked, computed, looked_up),
        first_steps=max(stage.seconds - usual, 0.0),
        training=epochs
        * min(job.feed.info.num_train / job.recipe.train.batch_size, job.feed.train_batches)
        * step,
        evaluation=epochs * evaluation,
        probes=epochs * stage.probe,
        upkeep=epochs * max(between - stage.evaluation - stage.probe, 0.0),
    )


def _seconds(
    trial: TrialRun,
    stages: Sequence[_Stage],
    *,
    start: float,
    teachers: float,
    importing: float,
) -> PlannedSeconds:
    test, val = (1 + trial.feed.left_out(name) for name in ("test", "val"))
    return PlannedSeconds(
        start=start + trial.preparing,
        teachers=teachers,
        first_steps=importing + sum(stage.first_steps for stage in stages),
        training=sum(stage.training for stage in stages),
        evaluation=sum(stage.evaluation for stage in stages)
        + test * trial.testing
        + val * trial.validating,
        probes=sum(stage.probes for stage in stages),
        upkeep=sum(stage.upkeep for stage in stages),
        report=test * max(trial.analysing, 0.0) + trial.writing,
    )


# ---- files, and what is chosen -------------------------------------------------------------------


def _tables(stored: Sequence[Stored], networks: Sequence[PlannedNetwork]) -> Iterator[PlannedTable]:
    for item, network in zip(stored, networks, strict=False):
        if item.teacher is not None and item.place is not None:
            shape = item.teacher.table.shape
            # a table is filed under its teacher's weights
            place = item.place if network.checkpoint else item.place.parent
            yield PlannedTable(str(place), shape.bytes, shape.rows, item.there)


def _run_bytes(trial: TrialRun, epochs: int, keep_every: int | None) -> int:
    run = trial.run
    sizes = {
        path: path.stat().st_size
        for path in run.rglob("*")
        if path.is_file() and path.parent.name != KEPT_FOLDER
    }
    growing = sum(sizes[run / name] for name in _BY_EPOCH) / (EPOCHS * len(trial.stages))
    kept = epochs // keep_every if keep_every else 0
    return round(
        sum(sizes.values())
        + growing * (epochs - EPOCHS * len(trial.stages))
        + kept * sizes[run / MODEL_FILE]
    )


def _choices(job: Job) -> Iterator[PlannedChoice]:
    runtime = job.runtime
    yield PlannedChoice("device", runtime.device_choice.value, runtime.device_choice.reason)
    yield PlannedChoice(
        "precision", runtime.precision_choice.value, runtime.precision_choice.reason
    )
    if job.teachers:
        yield PlannedChoice(
            "teacher_precision", runtime.teacher_choice.value, runtime.teacher_choice.reason
        )
        yield PlannedChoice(
            "teacher_batch", runtime.teacher_batch_choice.value, runtime.teacher_batch_choice.reason
        )
    yield PlannedChoice("compile", runtime.compile_choice.value, runtime.compile_choice.reason)
    if runtime.device.type == "cuda":
        yield PlannedChoice("graphs", runtime.graphs_choice.value, runtime.graphs_choice.reason)
    for loaded, item in zip(job.teachers, job.stored, strict=True):
        yield PlannedChoice(
            "stored_logits", item.choice.value, item.choice.reason, loaded.architecture
        )
