"""Several cells of a sweep at once: the same runs as one after another, teachers once, and no cell
harms another.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import NamedTuple

import pytest

from kdcli.errors import UsageError
from kdcli.files import read_json, sha256_file
from kdcli.jobs import run_sweep
from kdcli.jobs.events import (
    CellDone,
    CellStarted,
    EpochDone,
    FromRun,
    StepRead,
    SweepStarted,
    TeacherDone,
    TeacherStarted,
)
from kdcli.jobs.sweep.run import count_jobs
from kdcli.jobs.sweep.schedule import cell_tasks, with_teachers
from kdcli.jobs.sweep.workers import Crew, machine_cores
from kdcli.recipe.sweep.cells import load_sweep
from kdcli.results.sweep import SweepResult

several = pytest.mark.skipif(len(machine_cores()) < 2, reason="needs two cores")

COMMON = "[runtime]\nthreads = 1\n[report]\nhtml = false\nlatency = false\n[train]\nepochs = 2\n"
TEACHER = f'[model]\nname = "mlp"\n{COMMON}'
BASE = f'[student]\nname = "mlp"\nhidden = [8]\n[method]\nname = "kd"\n{COMMON}'
SWEEP = """
base = "base.toml"
[[axes.teacher]]
label = "one"
set = {{ "teacher.recipe" = "one.toml" }}
[[axes.teacher]]
label = "there"
set = {{ "teacher.checkpoint" = "{there}" }}
[axes]
seed = [0, 1]
"""


def write(folder: Path, sweep: str, **recipes: str) -> Path:
    for name, text in {"sweep": sweep, **recipes}.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / "sweep.toml"


class Both(NamedTuple):
    together: SweepResult
    events: list
    alone: SweepResult
    out: Path


@pytest.fixture(scope="module")
def both(trained, tmp_path_factory) -> Both:
    """One sweep twice: two cells at once, and one after another. Half of its cells need a teacher
    that is not there yet.
    """
    folder = tmp_path_factory.mktemp("both")
    sweep = write(folder, SWEEP.format(there=trained.out / "teacher"), base=BASE, one=TEACHER)
    events: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_CACHE_DIR", str(folder / "cache-together"))
        together = run_sweep(sweep, out=folder / "together", listeners=[events.append], jobs=2)
        patch.setenv("KD_CACHE_DIR", str(folder / "cache-alone"))
        alone = run_sweep(sweep, out=folder / "alone")
    return Both(together, events, alone, folder)


@several
def test_cells_at_once_give_the_same_results_in_the_same_order(both):
    assert [cell.status for cell in both.together.cells] == ["done"] * 4
    for ours, theirs in zip(both.together.cells, both.alone.cells, strict=True):
        assert (ours.id, ours.labels, ours.metrics) == (theirs.id, theirs.labels, theirs.metrics)
        for name in ("model.safetensors", "recipe.toml"):
            assert sha256_file(Path(ours.run) / name) == sha256_file(Path(theirs.run) / name)
        assert {path.name for path in Path(ours.run).iterdir()} == {
            path.name for path in Path(theirs.run).iterdir()
        }
    assert multiprocessing.active_children() == []


@several
def test_a_shared_teacher_is_trained_once_and_only_those_that_need_it_wait(both):
    teachers = [
        path
        for path in (both.out / "together").iterdir()
        if not path.is_symlink() and "kd-" not in path.name
    ]
    assert len(teachers) == 1
    at = {
        type(event).__name__: place
        for place, event in enumerate(both.events)
        if isinstance(event, TeacherStarted | TeacherDone)
    }
    started = {
        event.number: place
        for place, event in enumerate(both.events)
        if isinstance(event, CellStarted)
    }
    assert at["TeacherStarted"] < started[3] < at["TeacherDone"] < min(started[1], started[2])
    assert next(event for event in both.events if isinstance(event, TeacherDone)).status == "done"


@several
def test_listeners_hear_what_each_run_says_with_numbers_they_can_use(both):
    (head,) = (event for event in both.events if isinstance(event, SweepStarted))
    assert (head.cells, head.runs, head.teachers, head.jobs) == (4, 5, 1, 2)
    said = {event.number: [] for event in both.events if isinstance(event, FromRun)}
    for event in both.events:
        if isinstance(event, FromRun):
            said[event.number].append(event.event)
    assert set(said) == {0, 1, 2, 3, 4}  # 0: the teacher
    for events in said.values():
        assert [event.at.epoch for event in events if isinstance(event, EpochDone)] == [1, 2]
        read = next(event for event in events if isinstance(event, StepRead))
        assert all(isinstance(value, float) for value in read.losses.values())
        assert 0 <= read.train_accuracy <= 1
    assert sorted(event.number for event in both.events if isinstance(event, CellDone)) == [
        1,
        2,
        3,
        4,
    ]


@several
def test_finished_cells_are_skipped_and_a_limit_leaves_the_rest(both, tmp_path):
    again = run_sweep(both.together.sweep, out=both.out / "together", jobs=2)
    assert [cell.status for cell in again.cells] == ["skipped"] * 4
    assert [cell.run for cell in again.cells] == [cell.run for cell in both.together.cells]
    assert run_sweep(both.together.sweep, out=tmp_path, jobs=2, limit=0).cells == ()


@several
def test_runs_say_how_many_threads_they_had(both):
    environments = [read_json(Path(cell.run) / "environment.json") for cell in both.together.cells]
    assert {environment["threads"] for environment in environments} == {1}


OWN_METHOD = '''
"""Mine: dies of what it is told."""
import os, signal
from typing import Literal
from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Step

class Options(MethodOptions):
    dies: Literal["no", "killed", "raises"] = "no"

class Mine(Method):
    Options = Options
    teachers = Arity(0, 0)

    def loss(self, batch, at):
        if self.options.dies == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.dies == "raises":
            raise ValueError("as told")
        out = self.student(batch.x)
        return Step({"ce": losses.cross_entropy(out.logits, batch.y)}, out.logits)
'''


CASES = """
base = "base.toml"
[[axes.case]]
label = "killed"
set = { "method.dies" = "killed" }
[[axes.case]]
label = "raises"
set = { "method.dies" = "raises" }
[[axes.case]]
label = "no teacher"
set = { "method.name" = "kd", "teacher.recipe" = "broken.toml" }
[[axes.case]]
label = "fine"
set = { seed = 1 }
[[axes.case]]
label = "fine too"
set = { seed = 2 }
"""


@several
def test_what_fails_is_killed_or_lacks_its_teacher_leaves_the_others_alone(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_METHOD)
    base = (
        '[student]\nname = "mlp"\nhidden = [8]\n[method]\nname = '
        f'"{tmp_path / "mine.py"}"\n{COMMON}'
    )
    events = []
    sweep = write(tmp_path, CASES, base=base, broken=TEACHER + "[optim]\nlr = 1e12\n")
    result = run_sweep(sweep, out=tmp_path / "runs", jobs=2, listeners=[events.append])
    assert [cell.status for cell in result.cells] == ["failed"] * 3 + ["done"] * 2
    killed, raises, orphan, *_ = result.cells
    assert "killed by SIGKILL" in killed.error
    assert "fewer --jobs" in killed.error
    assert raises.error == "ValueError: as told"
    assert orphan.error.startswith("its teacher failed: ")
    assert "not finite" in orphan.error
    assert [event.status for event in events if isinstance(event, TeacherDone)] == ["failed"]
    assert multiprocessing.active_children() == []


# ---- planning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "cells", "cores", "expected"),
    [(2, 9, 4, 2), (4, 3, 4, 3), ("auto", 9, 4, 4), ("auto", 2, 4, 2), (3, 0, 4, 1)],
)
def test_there_are_no_more_processes_than_cells(jobs, cells, cores, expected):
    assert count_jobs(jobs, cells, cores, "cpu") == expected


@pytest.mark.parametrize(
    ("jobs", "device", "message"),
    [
        (0, "cpu", "at least one"),
        (-1, "cpu", "at least one"),
        (5, "cpu", "may use 4 cores"),
        (5, "cuda:0", "may use 4 cores"),
        ("auto", "cuda:0", "GPU"),
    ],
)
def test_a_number_of_jobs_that_makes_no_sense_is_refused(jobs, device, message):
    with pytest.raises(UsageError, match=message):
        count_jobs(jobs, 9, 4, device)


def plan(folder: Path, sweep: str, **recipes: str):
    cells = [cells[0] for cells in load_sweep(write(folder, sweep, **recipes)).runs().values()]
    return cell_tasks(cells, "kd sweep sweep.toml")


def test_each_teacher_comes_once_and_before_its_cells(tmp_path):
    sweep = (
        'base = "base.toml"\n[axes]\n"teacher.recipe" = ["one.toml", "two.toml"]\n"method.name" '
        '= ["none", "kd"]\nseed = [0, 1]\n'
    )
    base = BASE.replace("[method]", '[teacher]\nrecipe = "one.toml"\n[method]')
    cells = plan(tmp_path, sweep, base=base, one=TEACHER, two="seed = 7\n" + TEACHER)
    tasks = with_teachers(cells, {})
    teachers = [task for task in tasks if task.cell is None]
    assert [task.name for task in teachers] == ["teacher one", "teacher two"]
    assert tasks[:2] == teachers
    # baselines are measured beside a teacher, so they wait for it too
    assert {task.needs for task in tasks[2:]} == {frozenset({teacher.key}) for teacher in teachers}
    finished = {teachers[0].key: tmp_path}
    again = with_teachers(cells, finished)
    assert [task.name for task in again if task.cell is None] == ["teacher two"]
    assert all(teachers[0].key not in task.needs for task in again)


def test_teachers_of_another_length_are_another_teacher(tmp_path):
    base = BASE.replace("[method]", '[teacher]\nrecipe = "one.toml"\n[method]')
    tasks = with_teachers(
        plan(
            tmp_path,
            'base = "base.toml"\n[axes]\n"teacher.epochs" = [1, 2]\n',
            base=base,
            one=TEACHER,
        ),
        {},
    )
    assert [task.name for task in tasks if task.cell is None] == [
        "teacher one, 1\N{NO-BREAK SPACE}epoch",
        "teacher one, 2\N{NO-BREAK SPACE}epochs",
    ]


def test_cells_know_how_many_ask_their_teacher_the_same(tmp_path):
    base = BASE.replace("[method]", '[teacher]\nrecipe = "one.toml"\n[method]')
    axes = (
        '"method.name" = ["none", "kd", "skd", "fitnet"]\nseed = [0, 1]\n"data.augment.crop" = '
        "[0, 1]\n"
    )
    runs = {
        tuple(task.cell.labels.values()): task.runs
        for task in plan(tmp_path, f'base = "base.toml"\n[axes]\n{axes}', base=base, one=TEACHER)
    }
    # two methods and two seeds on each kind of image
    assert runs["kd", "0", "0"] == runs["skd", "1", "1"] == 4
    # no teacher, and one that is asked for more than logits
    assert runs["none", "0", "0"] == runs["fitnet", "0", "0"] == 1
    held_out = plan(
        tmp_path,
        f'base = "base.toml"\n[axes]\n{axes}',
        base=base + "[data]\nval_fraction = 0.1\n",
        one=TEACHER,
    )
    # each seed holds out others
    assert {task.runs for task in held_out if task.cell.labels["method.name"] == "kd"} == {2}


def test_the_machine_is_shared_out_by_cores(tmp_path):
    crew = Crew(2, (0, 1, 2, 3, 4), pin=True, most_threads=8, out=tmp_path, tell=False)
    alone, *none = crew.shares(1)  # a teacher that everybody waits for
    assert (alone.cores, alone.threads, none) == ((0, 1, 2, 3, 4), 5, [])
    assert [(share.cores, share.threads) for share in crew.shares(7)] == [((0, 1), 2), ((2, 3), 2)]
    assert [
        share.threads
        for share in Crew(
            2, (0, 1, 2, 3), pin=True, most_threads=1, out=tmp_path, tell=False
        ).shares(2)
    ] == [1, 1]
