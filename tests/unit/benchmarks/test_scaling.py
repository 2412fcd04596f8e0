"""How cost grows, measured on next to nothing: every part has its rows, and fresh processes are
what they say.
"""

from __future__ import annotations

import json
import math

import pytest

from benchmarks import scaling, table
from benchmarks.pairs import BATCH
from benchmarks.processes import seconds_of, seconds_to_first_step, summary_of
from benchmarks.scaling import Part, Sizes
from benchmarks.segments import write_recipe

TINY = Sizes(
    rounds=1,
    samples=(2 * BATCH, 4 * BATCH),
    epochs=8,
    classes=(10, 20),
    images=2 * BATCH,
    students=3,
    batches=(32, 64),
)


@pytest.fixture(autouse=True)
def small(pair, monkeypatch):
    monkeypatch.setattr(scaling, "SMALL", pair)
    return pair


@pytest.mark.parametrize("name", ["samples", "length"])
def test_cost_must_not_grow(name, capsys):
    found = scaling.PARTS[name](TINY)
    assert all(item.least == scaling.FLAT for item in found.ratios)
    found.show()
    assert found.title in capsys.readouterr().out
    told = json.loads(json.dumps(found.to_json()))
    assert told["rows"].keys() == found.rows.keys()
    assert told["ratios"]


def test_speed_with_more_classes_stands_beside_its_floor():
    found = scaling.classes(TINY)
    assert [item.name for item in found.ratios][:2] == [
        "student alone / bare student, 10 classes",
        "student alone / bare student, 20 classes",
    ]


def test_the_far_end_of_an_axis_stands_over_its_near_end():
    found = scaling.samples(TINY)
    near, far = (found.rows[f"student alone, {count:,} images"][0] for count in TINY.samples)
    assert found.ratios[0].median == pytest.approx(far / near)


def test_a_part_shows_what_is_required(capsys):
    Part(
        "cost against nothing",
        "images/s",
        {"a": [1.0, 3.0]},
        [scaling.ratio("far / near", [1.0], [2.0], 0.9)],
    ).show()
    assert "short (>= 0.9)" in capsys.readouterr().out


def test_compiling_is_repaid_when_the_steps_have_made_up_for_it():
    # ten seconds later; 64 images take 0.32 s instead of 0.64 s
    assert scaling.repaid([15.0], [5.0], [200.0], [100.0]) == pytest.approx(10 / 0.32)
    assert scaling.repaid([15.0], [5.0], [100.0], [100.0]) == math.inf
    assert scaling.repaid([4.0], [5.0], [200.0], [100.0]) == 0.0


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"exit code 1 instead of 0.*no such luck"):
        seconds_of(["-c", "raise SystemExit('no such luck')"])


@pytest.mark.slow
def test_a_process_ends_with_its_first_step(pair, place, teacher, folder):
    recipe = write_recipe(folder / "one.toml", pair, place, teacher, {"train.epochs": 2})
    whole, after_torch = seconds_to_first_step(recipe, folder / "runs", folder / "fresh")
    assert 0 < after_torch < whole
    (run,) = (folder / "runs").iterdir()
    assert not (run / "summary.json").exists()  # it ended long before the run did
    assert summary_of(["distill", str(recipe), "--out", str(folder / "whole")])["epochs"] == 2


def first_step(recipe, *_):
    """Seconds: the test above has true ones, and compiling takes long."""
    return (2.0, 1.5) if recipe.stem == "on" else (1.0, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["students", "ranks", "memory", "start"])
def test_parts_of_whole_runs(name, pair, monkeypatch):
    monkeypatch.setattr(scaling, "seconds_to_first_step", first_step)
    monkeypatch.setattr(scaling, "PAIRS", {"resnet56-resnet20": pair})
    found = scaling.PARTS[name](TINY)
    assert all(
        value > 0 for label, values in found.rows.items() for value in values if "more" not in label
    )


@pytest.mark.slow
def test_a_table_takes_as_many_runs_on_either_side(pair, monkeypatch):
    monkeypatch.setattr("benchmarks.textbook.TRIED_WORKERS", (0,))
    monkeypatch.setattr("benchmarks.textbook.WORKERS", 0)
    found = json.loads(
        json.dumps(table.measure(pair, students=2, epochs=1, batches=2, threads=None))
    )
    assert len(found["kd_cells"]) == len(found["textbook_runs"]) == 2
    assert found["ratio"] == pytest.approx(found["textbook_seconds"] / found["kd_seconds"])
