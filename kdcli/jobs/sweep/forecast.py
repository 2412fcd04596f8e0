"""What is left of a sweep: what finished runs took, and for the others a forecast of one of each
kind.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from kdcli.errors import Interrupted, KdError, Terminated
from kdcli.files import sha256_json
from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.plan.forecast import Forecaster, Tell, forecasting
from kdcli.jobs.sweep.schedule import Task, cell_tasks, with_teachers
from kdcli.recipe.schema import Recipe
from kdcli.recipe.sweep.cells import Sweep
from kdcli.results.plan import Plan, PlannedCells, PlannedTable, SweepPlan
from kdcli.results.run import RunResult
from kdcli.runs.find import finished_runs, unfinished_run
from kdcli.runs.manifest import read_record
from kdcli.typed import from_dict

_COSTS_NOTHING = {"seed", "name", "optim", "schedule", "gates"}


def forecast_sweep(
    sweep: Sweep, *, out: Path, tell: Tell = lambda _text: None, trust: bool = False
) -> SweepPlan:
    """The plan of a sweep. Runs that differ in seeds, rates and weights alone cost alike: of each
    such group finished runs say what one takes, or else some steps of one of them do.

    Args:
        out: folder of the runs. tell, trust: as for `forecast`.

    Raises:
        RecipeInvalid: the sweep or a cell of it.
    """
    sweep.check()
    finished = finished_runs(out)
    tasks = with_teachers(cell_tasks([cells[0] for cells in sweep.runs().values()], ""), finished)
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(_kind(task.resolved.recipe), []).append(task)
    tables: dict[str, PlannedTable] = {}
    with (
        trusted_recipe(*(cell.resolved for cell in sweep.cells), trust=trust),
        forecasting(out, tell) as forecaster,
    ):
        planned = tuple(
            _group(group, finished, forecaster, tables, sweep.axes) for group in groups.values()
        )
    cells = [task for task in tasks if task.cell is not None]
    left = [each for each in planned if each.runs > each.done]
    seconds = [each.seconds for each in left]
    return SweepPlan(
        sweep=str(sweep.path),
        count=len(cells),
        done=sum(task.key in finished for task in cells),
        stopped=sum(
            task.key not in finished and unfinished_run(out, task.key) is not None for task in tasks
        ),
        seconds=_total(left) if None not in seconds else None,
        bytes=sum((each.runs - each.done) * each.run_bytes for each in left),
        groups=planned,
        tables=tuple(tables.values()),
    )


def _total(groups: Sequence[PlannedCells]) -> float:
    return sum((each.runs - each.done) * (each.seconds or 0.0) for each in groups)


def _kind(recipe: Recipe) -> str:
    """A hash that is equal for runs that cost alike. Fractions among a method's options are weights
    and temperatures; whole numbers, texts and lists may be epochs and networks.
    """
    values = recipe.model_dump(mode="json", exclude=_COSTS_NOTHING)
    values["method"] = {
        key: value for key, value in values["method"].items() if not isinstance(value, float)
    }
    return sha256_json({"kind": recipe.KIND, **values})


def _group(
    tasks: Sequence[Task],
    finished: Mapping[str, Path],
    forecaster: Forecaster,
    tables: dict[str, PlannedTable],
    axes: Mapping[str, Sequence[str]],
) -> PlannedCells:
    done = [finished[task.key] for task in tasks if task.key in finished]
    first = tasks[0]
    labels = _common(tasks, axes) if first.cell is not None else {"": first.name}

    def made(
        seconds: float | None,
        source: Literal["measured", "planned", "unknown"],
        size: int,
        problem: str = "",
    ) -> PlannedCells:
        return PlannedCells(
            labels,
            len(tasks),
            len(done),
            seconds,
            source,
            size,
            first.cell is None,
            problem,
        )

    if done:
        took = statistics.median(_summary(run).wall_seconds for run in done)
        return made(took, "measured", max(_size(run) for run in done))
    try:
        plan = _planned(first, forecaster)
    except (Interrupted, Terminated):
        raise
    except KdError as error:
        return made(None, "unknown", 0, error.message)
    tables.update({table.path: table for table in plan.tables})
    return made(plan.seconds - plan.parts.teachers, "planned", plan.run_bytes)


def _planned(task: Task, forecaster: Forecaster) -> Plan:
    if task.cell is None:
        return forecaster.plan_teacher(task.resolved)
    return forecaster.plan(task.resolved)[0]


def _common(tasks: Sequence[Task], axes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What all of them have on an axis that tells runs of the sweep apart."""
    found = [task.cell.labels for task in tasks if task.cell is not None]
    return {
        axis: found[0][axis]
        for axis, points in axes.items()
        if len(points) > 1
        and axis in found[0]
        and all(labels.get(axis) == found[0][axis] for labels in found)
    }


def _summary(run: Path) -> RunResult:
    path = run / "summary.json"
    return from_dict(RunResult, read_record(path), path)


def _size(run: Path) -> int:
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
