"""Sweeps: cells are run once, found again, survive a failing one, and make a table."""

from __future__ import annotations

import base64
from pathlib import Path
from unittest.mock import patch

import pytest

from kdcli.core.known_answers import KnownAnswers
from kdcli.data.datasets import digits
from kdcli.errors import RecipeInvalid, UsageError
from kdcli.jobs import distill, run_sweep
from kdcli.jobs.build import kept, teachers
from kdcli.jobs.build.datasets import open_source
from kdcli.jobs.events import CellDone
from kdcli.jobs.sweep.schedule import cell_tasks
from kdcli.recipe.schema import DataSection, branch
from kdcli.recipe.sweep.cells import load_sweep
from kdcli.report.tables.sweep import sweep_results
from kdcli.runs.folder import claimed_sweep
from kdcli.runs.read import Run

SWEEP = """
base = "base.toml"
[axes]
"method.name" = ["none", "kd"]
seed = [0, 1]
"""
BASE = """
[student]
name = "mlp"
hidden = [8]
[teacher]
recipe = "teacher.toml"
[train]
epochs = 1
[report]
html = false
"""
TEACHER = """
[model]
name = "mlp"
[train]
epochs = 1
[report]
html = false
"""


@pytest.fixture
def sweep_file(tmp_path):
    for name, text in (("base", BASE), ("teacher", TEACHER), ("sweep", SWEEP)):
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path / "sweep.toml"


def test_all_runs_of_a_sweep_read_their_dataset_once(sweep_file, tmp_path):
    with patch.object(digits, "load", wraps=digits.load) as load:
        run_sweep(sweep_file, out=tmp_path / "runs")
    assert load.call_count == 1  # four students and a teacher


def test_of_the_datasets_only_the_last_is_kept_and_outside_none(sweep_file):
    plain, square = (
        branch(DataSection, "digits")(name="digits"),
        branch(DataSection, "synthetic")(name="synthetic"),
    )
    assert open_source(plain) is not open_source(plain)
    with kept.between_runs():
        first = open_source(plain)
        assert open_source(branch(DataSection, "digits")(name="digits", train_limit=100)) is first
        open_source(square)
        assert open_source(plain) is not first
    assert open_source(plain) is not open_source(plain)


def test_cells_answer_as_single_runs_do_and_ask_their_teacher_once(sweep_file, tmp_path):
    """A cell's numbers do not depend on which came before it in the same process."""
    sweep_file.write_text('base = "base.toml"\n[axes]\nseed = [0, 1, 2]\n')
    asked: list[int] = []
    after: list[int] = []

    class Counted(KnownAnswers):
        def answer(self, ask, x, taps):
            return super().answer(lambda rows: asked.append(len(rows)) or ask(rows), x, taps)

    def note(event):
        if isinstance(event, CellDone):
            after.append(len(asked))

    with patch.object(teachers, "KnownAnswers", Counted):
        cells = run_sweep(sweep_file, out=tmp_path / "runs", listeners=[note]).cells
    assert after[0] > 0
    assert after == [after[0]] * 3
    swept = [Run.load(cell.run).summary for cell in cells]
    # networks of one kind are timed once
    assert swept[0].cost.latencies == swept[1].cost.latencies == swept[2].cost.latencies
    alone = distill(cells[2].run + "/recipe.toml", out=tmp_path / "alone")
    for name in ("test", "gap", "gaps", "energies", "teacher_energies", "agreement"):
        assert getattr(swept[2], name) == getattr(alone, name), name


def test_cells_are_run_once_and_share_one_teacher(sweep_file, tmp_path):
    out = tmp_path / "runs"
    done = []
    first = run_sweep(
        sweep_file,
        out=out,
        listeners=[lambda event: done.append(event) if isinstance(event, CellDone) else None],
    )
    assert [cell.status for cell in first.cells] == ["done"] * 4
    assert first.complete
    assert [event.number for event in done] == [1, 2, 3, 4]
    assert len([run for run in out.iterdir() if not run.is_symlink()]) == 5
    assert [cell.status for cell in run_sweep(sweep_file, out=out).cells] == ["skipped"] * 4
    results = sweep_results(load_sweep(sweep_file), out)
    # baselines too have a gap: to the teacher that the others learn from
    assert all(result is not None and result.gap is not None for _, result in results.results)
    # which test images each gets right is kept, so that methods can be tested over images
    shares = [
        sum(byte.bit_count() for byte in base64.b64decode(right.bits)) / right.n
        for right in results.right
        if right is not None
    ]
    assert shares == [result.test.accuracy for _, result in results.results if result]
    assert not results.damage
    record = Path(first.cells[0].run) / "analysis.json"
    record.write_text(record.read_text().replace('"bits": "', '"bits": "A', 1))
    damaged = sweep_results(load_sweep(sweep_file), out)
    assert (damaged.results, damaged.right[0]) == (results.results, None)
    assert damaged.right[1:] == results.right[1:]
    assert len(damaged.damage) == 1
    assert "analysis.json" in damaged.damage[0]


def test_a_limit_leaves_the_rest_for_later(sweep_file, tmp_path):
    assert len(run_sweep(sweep_file, out=tmp_path / "runs", limit=1).cells) == 1
    assert [
        cell.status for cell in run_sweep(sweep_file, out=tmp_path / "runs", limit=1).cells
    ] == ["skipped", "done"]


def test_a_failing_cell_does_not_stop_the_others(sweep_file, tmp_path):
    sweep_file.write_text('base = "base.toml"\n[axes]\n"optim.lr" = [0.05, 1e12]\nseed = [0, 1]\n')
    result = run_sweep(sweep_file, out=tmp_path / "runs")
    assert [cell.status for cell in result.cells] == ["done", "done", "failed", "failed"]
    assert "not finite" in result.cells[2].error
    assert not result.complete


def test_two_sweeps_of_the_same_cells_do_not_share_a_folder(sweep_file, tmp_path):
    tasks = cell_tasks([cells[0] for cells in load_sweep(sweep_file).runs().values()], "")
    with (
        claimed_sweep(tmp_path / "runs", (task.key for task in tasks), "another"),
        pytest.raises(UsageError, match="another process is at work on the cells of"),
    ):
        run_sweep(sweep_file, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()  # nothing of either is left


def test_a_mistake_in_any_cell_shows_before_the_first_runs(sweep_file, tmp_path):
    sweep_file.write_text('base = "base.toml"\n[axes]\n"optim.lr" = [0.05, -1.0]\n')
    with pytest.raises(RecipeInvalid):
        run_sweep(sweep_file, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
