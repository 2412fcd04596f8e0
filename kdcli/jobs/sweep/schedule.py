"""The tasks of a sweep: its cells, the teachers that cells share, and who waits for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kdcli import catalog, formatting
from kdcli.errors import Interrupted, KdError, Paused, Terminated
from kdcli.files import sha256_json
from kdcli.jobs.events import Listener
from kdcli.jobs.train.run import find_or_train
from kdcli.recipe.resolve import Resolved, teacher_recipe
from kdcli.recipe.schema import DistillRecipe, Recipe, TeacherSection
from kdcli.recipe.sweep.cells import ID_LENGTH, Cell
from kdcli.recipe.writing import recipe_hash

_NOT_ASKED = {"weight", "cache"}  # of a teacher: what does not change its answers


@dataclass(frozen=True, slots=True)
class Task:
    """One run: a cell of a sweep, or a teacher that cells wait for.

    key: hash of its recipe. name: for people. command: for its environment.json. runs: how many
    runs ask its teachers for the same answers. needs: keys of the teachers that must be there
    first. cell, number: None and 0 for a teacher. until: the epoch of its last stage after which it
    is left, its state saved; None: it is trained to its end, measured and reported.
    """

    key: str
    name: str
    resolved: Resolved
    command: str
    runs: int = 1
    needs: frozenset[str] = frozenset()
    cell: Cell | None = None
    number: int = 0
    until: int | None = None

    @property
    def id(self) -> str:
        """Short form of the key; a cell's own id."""
        return self.key[:ID_LENGTH]


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a task. "found": another process had finished it. "paused": it has had the epochs
    that it was to have. "stopped": on request, its state is saved.
    """

    status: Literal["done", "found", "paused", "failed", "stopped"]
    run: str | None = None
    error: str | None = None
    accuracy: float | None = None


def attempt(
    task: Task,
    out: Path,
    listeners: Sequence[Listener] = (),
    finished: Mapping[str, Path] | None = None,
) -> Ended:
    """Runs a task; an error of it is returned, not raised: the others may work.

    Args:
        finished: as for `find_or_train`.

    Raises:
        Interrupted, Terminated: somebody asked for that.
    """
    try:
        run, result = find_or_train(
            task.resolved,
            out=out,
            listeners=listeners,
            command=task.command,
            finished=finished,
            runs=task.runs,
            until=task.until,
        )
    except (Interrupted, Terminated):
        raise
    except Paused as left:
        return Ended("paused", left.run)
    except KdError as error:
        return Ended("failed", error=error.message)
    except Exception as error:  # noqa: BLE001  whatever broke this run, the others may work
        return Ended("failed", error=f"{type(error).__name__}: {error}")
    return (
        Ended("found", str(run))
        if result is None
        else Ended("done", str(run), accuracy=result.test.accuracy)
    )


def cell_tasks(cells: Sequence[Cell], command: str) -> list[Task]:
    """A task for each cell, in order."""
    shared = _sharing(cells)
    return [
        Task(
            recipe_hash(cell.resolved.recipe),
            _named(cell.labels),
            cell.resolved,
            command,
            shared[cell.id],
            cell=cell,
            number=number,
        )
        for number, cell in enumerate(cells, 1)
    ]


def with_teachers(tasks: Sequence[Task], finished: Mapping[str, Path]) -> list[Task]:
    """The tasks with those that they wait for, after tasks for their unfinished teachers."""
    known = {task.key for task in tasks} | finished.keys()
    teachers: dict[str, Task] = {}

    def knowing(task: Task) -> Task:
        named = {teacher.key: teacher for teacher in _teachers_of(task.resolved.recipe)}
        for key, teacher in named.items():
            if key not in known and key not in teachers:
                # its images may be ranked by another teacher, which then comes before it
                teachers[key] = knowing(teacher)
        return replace(task, needs=frozenset(named.keys() - finished.keys()))

    waiting = [knowing(task) for task in tasks]
    return [*teachers.values(), *waiting]


def _teachers_of(recipe: Recipe) -> Iterator[Task]:
    """Tasks for the runs that a recipe names, by their recipes, as teachers or as reference."""
    sections = recipe.teacher if isinstance(recipe, DistillRecipe) else ()
    reference = recipe.report.reference
    if not sections and reference is not None and reference.endswith(".toml"):
        sections = (TeacherSection(recipe=reference),)
    for section in sections:
        if section.recipe is not None:
            with suppress(KdError):  # the cell itself says what is wrong
                resolved, command = teacher_recipe(section, recipe)
                length = (
                    f", {formatting.plural(section.epochs, 'epoch')}"
                    if section.epochs is not None
                    else ""
                )
                name = f"teacher {Path(section.recipe).stem}{length}"
                yield Task(recipe_hash(resolved.recipe), name, resolved, command)


def _sharing(cells: Sequence[Cell]) -> Mapping[str, int]:
    """By id of a cell, the number of cells that ask the same teachers the same, itself counted."""
    asked = {cell.id: _question(cell.resolved.recipe) for cell in cells}
    counts = Counter(asked.values())
    return {
        cell: counts[question] if question is not None else 1 for cell, question in asked.items()
    }


def _question(recipe: Recipe) -> str | None:
    """A hash that is equal for runs whose teachers give the same answers to the same images; None
    where none can be stored.
    """
    if not isinstance(recipe, DistillRecipe) or not catalog.entry(
        "method", recipe.method.name
    ).facts.get("cacheable"):
        return None
    teachers = [
        teacher.model_dump(mode="json", exclude=_NOT_ASKED)
        for teacher in recipe.teacher
        if teacher.cache != "off"
    ]
    if not teachers:
        return None
    data = recipe.data
    drawn = bool(data.val_fraction) or data.train_limit is not None or data.per_class is not None
    return sha256_json(
        {
            "teachers": teachers,
            "data": data.model_dump(mode="json"),
            "seed": recipe.seed if drawn else None,  # decides which images are trained on
            "precision": recipe.runtime.precision,
        }
    )


def _named(labels: Mapping[str, str]) -> str:
    return " ".join(f"{axis}={label}" for axis, label in labels.items())
