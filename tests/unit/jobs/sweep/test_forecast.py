"""What is left of a sweep: by runs that are finished, and by some steps of those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdcli.errors import RecipeInvalid
from kdcli.jobs import forecast_sweep, run_sweep
from kdcli.recipe.sweep.cells import load_sweep

TEACHER = """
[data]
name = "digits"
train_limit = 200
[model]
name = "mlp"
hidden = [32]
[train]
epochs = 1
[report]
html = false
latency = false
"""
BASE = """
[data]
name = "digits"
train_limit = 200
[student]
name = "mlp"
hidden = [8]
[teacher]
recipe = "teacher.toml"
[train]
epochs = 1
[report]
html = false
latency = false
"""
SWEEP = """
base = "base.toml"
[axes]
"method.name" = ["none", "kd", "skd"]
seed = [0, 1]
"""


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "teacher.toml").write_text(TEACHER)
    (tmp_path / "base.toml").write_text(BASE)
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP)
    return path


def test_finished_runs_say_what_the_others_of_their_kind_take(sweep, tmp_path):
    out = tmp_path / "runs"
    before = forecast_sweep(load_sweep(sweep), out=out)
    assert (before.count, before.done, before.stopped) == (6, 0, 0)
    assert [each.source for each in before.groups] == ["planned"] * 4
    # the teacher first, once; then a kind for each method, whatever its seeds
    assert [each.teacher for each in before.groups] == [True, False, False, False]
    assert [each.labels for each in before.groups[1:]] == [
        {"method.name": name} for name in ("none", "kd", "skd")
    ]
    assert before.seconds == pytest.approx(
        sum(each.seconds * (each.runs - each.done) for each in before.groups)
    )
    assert not out.exists()
    done = run_sweep(sweep, out=out, limit=3)
    after = forecast_sweep(load_sweep(sweep), out=out)
    assert (after.count, after.done) == (6, 3)
    kinds = {each.labels["method.name"]: each for each in after.groups}
    assert [(kinds[name].done, kinds[name].source) for name in ("none", "kd", "skd")] == [
        (2, "measured"),
        (1, "measured"),
        (0, "planned"),
    ]
    (kd,) = [cell.run for cell in done.cells if cell.labels["method.name"] == "kd"]
    took = json.loads((Path(kd) / "summary.json").read_text())["wall_seconds"]
    assert kinds["kd"].seconds == took
    run_sweep(sweep, out=out)
    finished = forecast_sweep(load_sweep(sweep), out=out)
    assert (finished.done, finished.seconds, finished.bytes) == (6, 0.0, 0)


def test_a_cell_that_cannot_be_is_told_before_anything_is_tried(sweep, tmp_path):
    sweep.write_text('base = "base.toml"\n[axes]\n"train.epochs" = [1, -1]\n')
    with pytest.raises(RecipeInvalid):
        forecast_sweep(load_sweep(sweep), out=tmp_path / "runs")
