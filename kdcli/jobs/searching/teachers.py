"""`kd find-teacher`: which checkpoint of a teacher to distil from, measured by short distillations.

A teacher's accuracy does not say how good its students will be, and neither does the entropy of its
answers (docs/results/advice.md). So each teacher that is tried is probed: a student is distilled
from its checkpoint for a few epochs, and scored on held-out images.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data.text import Text
from kdcli.errors import KdError, UsageError
from kdcli.jobs.build import kept
from kdcli.jobs.build.datasets import open_source
from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.events import Listener
from kdcli.jobs.listeners import Audience
from kdcli.jobs.model_info import propose_students
from kdcli.jobs.searching.race import Race, Steps, rungs, score_of
from kdcli.jobs.searching.space import HELD_OUT, base_of, label_of
from kdcli.jobs.searching.study import Study, check_installed, in_folder
from kdcli.jobs.sweep.executor import HERE, Executor, Jobs, Place, open_executor
from kdcli.jobs.sweep.schedule import Task
from kdcli.recipe.resolve import (
    Flag,
    Resolved,
    kind_of,
    resolve,
    resolve_teacher,
    shared_place,
    shared_samples,
)
from kdcli.recipe.schema import DistillRecipe, TrainTeacherRecipe
from kdcli.recipe.writing import recipe_hash
from kdcli.report.tables.search import TEACHER_PAGE, write_found_teacher
from kdcli.results.search import FoundTeacher, Score, Trial
from kdcli.runs.read import epoch_of

if TYPE_CHECKING:
    import optuna

TEMPERATURES = (1.0, 3.0, 9.0, 20.0)
SMOOTHINGS = (0.0, 0.1, 0.3, 0.6)
BATCHES = (0.5, 1.0, 2.0, 4.0)  # times the recipe's
FACTOR = 3  # of each rung one trial in so many goes on, and so many times as long
TRIALS = 12
JOURNAL = "find-teacher.journal"


@dataclass(frozen=True, slots=True)
class Pair:
    """The recipes that a search varies. teacher: makes the teacher's recipe of values by dotted
    key; probe: the student's, of values too.
    """

    teacher: Callable[[Mapping[str, Any]], Resolved]
    probe: Callable[[Mapping[str, Any]], Resolved]


class Teachers:
    """The plan of a search for a teacher (kdcli.jobs.searching.race.Plan).

    Args:
        at: epochs of the teacher after which it is probed. probe_epochs: of the student.
        batches, smoothings, temperatures: to choose from.
    """

    def __init__(
        self,
        pair: Pair,
        at: tuple[int, ...],
        *,
        probe_epochs: int,
        batches: Sequence[int],
        smoothings: Sequence[float],
        temperatures: Sequence[float],
        command: str,
    ) -> None:
        self.pair = pair
        self.rungs = at
        self.probe_epochs = probe_epochs
        self.batches, self.smoothings = tuple(batches), tuple(smoothings)
        self.temperatures = tuple(temperatures)
        self.command = command

    def suggest(self, trial: optuna.Trial) -> None:
        trial.suggest_categorical("batch_size", list(self.batches))
        trial.suggest_categorical("smoothing", list(self.smoothings))
        trial.suggest_categorical("temperature", list(self.temperatures))

    def label(self, trial: Trial) -> str:
        return label_of(trial)

    def worth(self, trial: Trial, score: Score) -> float:  # noqa: ARG002  as the plan's
        """The student's accuracy."""
        return score.accuracy

    def steps(self, trial: Trial, rung: int) -> Steps:
        """Two tasks: the teacher up to the rung, and a probe of its checkpoint there."""
        epoch = self.rungs[rung]
        taught = self._task(f"teacher {self.label(trial)}", self.teacher(trial), epoch)
        ended = yield taught
        assert ended.run is not None
        checkpoint = Path(ended.run) / "checkpoints" / f"epoch-{epoch:03d}.safetensors"
        probe = self.pair.probe(
            {
                "teacher.checkpoint": str(checkpoint),
                "method.temperature": trial.parameters["temperature"],
                "train.epochs": self.probe_epochs,
            }
        )
        ended_probe = yield self._task(f"probe {self.label(trial)}", probe, self.probe_epochs)
        assert ended_probe.run is not None
        teacher = epoch_of(ended.run, epoch)
        if teacher is None or teacher.val is None:
            raise UsageError(
                f"{ended.run} measured nothing on held-out images",
                hint=f"-s data.val_fraction={HELD_OUT}",
            )
        return replace(
            score_of(ended_probe.run, self.probe_epochs),
            epochs=epoch,
            checkpoint=str(checkpoint),
            teacher_accuracy=teacher.val.accuracy,
            teacher_entropy=teacher.val.entropy,
        )

    def teacher(self, trial: Trial) -> Resolved:
        """The recipe of a trial's teacher, which keeps its weights at every rung."""
        smoothing = float(trial.parameters["smoothing"])
        method: dict[str, Any] = (
            {"method.name": "label_smoothing", "method.smoothing": smoothing}
            if smoothing
            else {"method.name": "none"}
        )
        return self.pair.teacher(
            {
                **method,
                "train.batch_size": trial.parameters["batch_size"],
                "train.epochs": self.rungs[-1],
                "train.keep_every": reduce(math.gcd, self.rungs),
            }
        )

    def _task(self, name: str, resolved: Resolved, until: int) -> Task:
        return Task(recipe_hash(resolved.recipe), name, resolved, self.command, until=until)


# ---- the recipes ---------------------------------------------------------------------------------


def pair_of(
    recipe: str | Path,
    student: str | None,
    sets: Sequence[str],
    flags: Sequence[Flag],
    environ: Mapping[str, str],
) -> tuple[Pair, DistillRecipe, TrainTeacherRecipe]:
    """The recipes of a student and its teacher, from either.

    Args:
        recipe: a distill recipe whose teacher is named by recipe, or a train-teacher recipe, whose
            student is `student`, or else the largest network of the zoo that is worth having.

    Raises:
        UsageError: the recipe names no teacher by recipe, or several; nothing is held out.
    """
    if kind_of(recipe) == "distill":
        return _of_distill(recipe, student, sets, flags, environ)
    return _of_teacher(recipe, student, sets, flags, environ)


def _of_distill(
    recipe: str | Path,
    student: str | None,
    sets: Sequence[str],
    flags: Sequence[Flag],
    environ: Mapping[str, str],
) -> tuple[Pair, DistillRecipe, TrainTeacherRecipe]:
    named = (*flags, Flag("--student", "student.name", student)) if student else tuple(flags)
    base, first = base_of(recipe, sets, named, environ)
    found = first.recipe
    assert isinstance(found, DistillRecipe)
    if len(found.teacher) != 1 or found.teacher[0].recipe is None:
        raise UsageError(
            f"{recipe} does not name its one teacher by recipe, and a checkpoint has been trained",
            hint="[teacher] recipe = FILE, or a train-teacher recipe and --student NAME",
        )
    source = found.teacher[0].recipe
    same = _same(found)
    same |= shared_samples(found, resolve_teacher(source, values=same, environ=environ).recipe)

    def teacher(values: Mapping[str, Any]) -> Resolved:
        return resolve_teacher(source, values={**same, **values}, environ=environ)

    example = teacher({}).recipe
    assert isinstance(example, TrainTeacherRecipe)
    return Pair(teacher, base.resolve), found, example


def _same(student: DistillRecipe) -> dict[str, Any]:
    """What a teacher shares with its student: where it is computed, and the images that are held
    out, which follow from the seed.
    """
    found: dict[str, Any] = {"seed": student.seed}
    if student.data.val_fraction:
        found["data.val_fraction"] = student.data.val_fraction
    return found | shared_place(student)


def _of_teacher(
    recipe: str | Path,
    student: str | None,
    sets: Sequence[str],
    flags: Sequence[Flag],
    environ: Mapping[str, str],
) -> tuple[Pair, DistillRecipe, TrainTeacherRecipe]:
    def resolved(values: Mapping[str, Any]) -> Resolved:
        return resolve(
            "train-teacher", file=recipe, values=values, sets=sets, flags=flags, environ=environ
        )

    first = resolved({})
    held: dict[str, Any] = {}
    if not first.recipe.data.val_fraction:
        if first.origins.get("data.val_fraction", "default") != "default":
            raise UsageError(
                "probes are scored on held-out images, and data.val_fraction is 0",
                hint=f"-s data.val_fraction={HELD_OUT}",
            )
        held = {"data.val_fraction": HELD_OUT}
        first = resolved(held)
    found = first.recipe
    assert isinstance(found, TrainTeacherRecipe)
    shared = _data_of(found)
    shared["student.name"] = student or _sibling(found)
    file = str(recipe)

    def probe(values: Mapping[str, Any]) -> Resolved:
        given = {"teacher.recipe": file, **shared, **values}
        if "teacher.checkpoint" in given:
            del given["teacher.recipe"]
        return resolve("distill", values={"method.name": "kd", **given}, environ=environ)

    example = probe({}).recipe
    assert isinstance(example, DistillRecipe)
    pair = Pair(lambda values: resolved({**held, **values}), probe)
    return pair, example, found


def _data_of(teacher: TrainTeacherRecipe) -> dict[str, Any]:
    """The data, the optimiser and the place of a teacher's recipe, for its probes."""
    content = teacher.model_dump(mode="json", exclude_none=True)
    found: dict[str, Any] = {"seed": teacher.seed}
    for section in ("data", "optim", "schedule", "runtime"):
        found |= {f"{section}.{key}": value for key, value in content[section].items()}
    found["train.batch_size"] = teacher.train.batch_size
    return found


def _sibling(teacher: TrainTeacherRecipe) -> str:
    source = open_source(teacher.data)
    if isinstance(source, Text):
        raise UsageError("name the student of the probes", hint="--student NAME")
    shape, classes = source.preprocessing.input_shape, len(source.class_names)
    _, proposals = propose_students(teacher.model.name, None, classes, shape)
    worth = [each for each in proposals if each.worth_it]
    if not worth:
        raise UsageError(
            f"no network of the zoo is smaller than {teacher.model.name}",
            hint="name the student of the probes with --student",
        )
    return worth[0].card.name


# ---- the job -------------------------------------------------------------------------------------


def find_teacher(
    recipe: str | Path,
    *,
    out: str | Path = "runs",
    student: str | None = None,
    probe_epochs: int | None = None,
    batches: Sequence[int] = (),
    smoothings: Sequence[float] = (),
    temperatures: Sequence[float] = (),
    trials: int = TRIALS,
    seconds: float | None = None,
    jobs: Jobs = 1,
    place: Place = HERE,
    sets: Sequence[str] = (),
    flags: Sequence[Flag] = (),
    environ: Mapping[str, str] | None = None,
    listeners: Sequence[Listener] = (),
    command: str = "",
    trust: bool = False,
    told: Callable[[str], object] = lambda _text: None,
) -> FoundTeacher:
    """Finds the checkpoint of a teacher to distil from: batch size, label smoothing and temperature
    are searched by successive halving over the teacher's epochs, and every checkpoint at a rung is
    scored by a short distillation on held-out images. The test images are not used.

    Args:
        recipe: a distill recipe that names its teacher by recipe, or a train-teacher recipe.
        out: folder of the runs and of the search, one for each search.
        student: that the probes train; the recipe's, or the zoo's largest that is worth having.
        probe_epochs: of the student; a third of its recipe's epochs unless given.
        batches, smoothings, temperatures: to choose from.
        trials, seconds, jobs, place, sets, flags, environ, told, trust: as for `search`.

    Raises:
        UsageError: nothing is held out, the recipe's teacher has been trained, or the folder holds
            another search. Interrupted, Terminated: the same command goes on.
    """
    check_installed("kd find-teacher")
    folder = Path(out)
    with kept.between_runs():
        pair, probed, teacher = pair_of(recipe, student, sets, flags, environ or {})
        if teacher.data.name != probed.data.name:
            raise UsageError(
                f"the teacher learns {teacher.data.name} and its student {probed.data.name}: no "
                "image is held out from both",
                hint="a recipe in which both have the same data",
            )
        example = pair.teacher({})
        with in_folder(folder / JOURNAL), trusted_recipe(example, pair.probe({}), trust=trust):
            epochs = teacher.train.epochs
            plan = Teachers(
                pair,
                rungs(epochs, FACTOR),
                probe_epochs=probe_epochs or max(probed.train.epochs // FACTOR, 1),
                batches=batches
                or sorted({max(round(teacher.train.batch_size * each), 1) for each in BATCHES}),
                smoothings=smoothings or SMOOTHINGS,
                temperatures=temperatures or TEMPERATURES,
                command=command or f"kd find-teacher {recipe}",
            )
            heard = (Audience.of(listeners),) if listeners else ()
            return _find(
                plan,
                probed,
                teacher,
                folder,
                heard,
                trials,
                seconds,
                lambda: open_executor(jobs, trials, folder, heard, example, place),
                told,
            )


def _find(
    plan: Teachers,
    probed: DistillRecipe,
    teacher: TrainTeacherRecipe,
    folder: Path,
    listeners: Sequence[Listener],
    limit: int,
    seconds: float | None,
    executor: Callable[[], Executor],
    told: Callable[[str], object],
) -> FoundTeacher:
    import optuna

    pruner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=plan.rungs[0], reduction_factor=FACTOR
    )
    study = Study(
        folder / JOURNAL,
        {
            "command": "find-teacher",
            "teacher": recipe_hash(teacher),
            "student": recipe_hash(probed.model_copy(update={"teacher": ()})),
            "epochs of the probe": plan.probe_epochs,
            "batch sizes": list(plan.batches),
            "smoothings": list(plan.smoothings),
            "temperatures": list(plan.temperatures),
        },
        seed=teacher.seed,
        startup=min(10, max(limit // 2, 1)),
        leaves=pruner.prune,
    )
    race = Race(study, plan, listeners, limit=limit, seconds=seconds, command=plan.command)
    race.run(executor())
    notes = []
    if race.late:
        notes.append("the time was up: with more of it the same command goes on")
        told(notes[0])
    result = _result(plan, probed, teacher, folder, study, tuple(notes))
    write_found_teacher(result, folder)
    return result


def _result(
    plan: Teachers,
    probed: DistillRecipe,
    teacher: TrainTeacherRecipe,
    folder: Path,
    study: Study,
    notes: tuple[str, ...],
) -> FoundTeacher:
    trials = study.trials
    every = [(trial, score) for trial in trials for score in trial.scores]
    if not every:
        raise KdError("no teacher was probed in the time that it had", hint="more --time")
    trial, score = max(every, key=lambda item: (item[1].accuracy, -item[1].epochs, -item[0].number))
    accurate = max(every, key=lambda item: (item[1].teacher_accuracy or 0.0, -item[0].number))
    # early checkpoints have most of it, and would always win
    reached = max(found.epochs for _, found in every)
    late = [item for item in every if item[1].epochs == reached]
    entropic = max(late, key=lambda item: (item[1].teacher_entropy or 0.0, -item[0].number))
    temperature = float(trial.parameters["temperature"])
    checkpoint = str(score.checkpoint)
    again = [
        *("kd", "distill", "--teacher", checkpoint, "--student", probed.student.name),
        *("--method", probed.method.name, "--set", f"method.temperature={temperature:g}"),
    ]
    return FoundTeacher(
        folder=str(folder),
        data=teacher.data.name,
        network=teacher.model.name,
        student=probed.student.name,
        probe_epochs=plan.probe_epochs,
        rungs=plan.rungs,
        trials=trials,
        chosen=trial.number,
        epochs=score.epochs,
        checkpoint=checkpoint,
        temperature=temperature,
        most_accurate=(accurate[0].number, accurate[1].epochs),
        most_entropy=(entropic[0].number, entropic[1].epochs),
        again=shlex.join(again),
        seconds=study.seconds,
        page=str(folder / TEACHER_PAGE),
        notes=notes,
    )
