"""`kd find-teacher`: checkpoints are scored by what a student learns from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.errors import Interrupted, UsageError
from kdcli.jobs import find_teacher
from kdcli.results.weights_header import read_header
from kdcli.runs.find import runs_in
from kdcli.runs.read import Run
from tests.unit.jobs.searching.conftest import StopAfter

SPACE = {"batches": [32, 64], "smoothings": [0.0, 0.3], "temperatures": [3.0], "probe_epochs": 1}


@pytest.fixture(scope="module")
def found(recipes, tmp_path_factory):
    out = tmp_path_factory.mktemp("teachers")
    with pytest.raises(Interrupted):
        find_teacher(recipes / "student.toml", out=out, trials=3, listeners=[StopAfter(2)], **SPACE)
    return find_teacher(recipes / "student.toml", out=out, trials=3, **SPACE)


def test_it_takes_the_checkpoint_whose_student_is_best(found):
    every = [(trial, score) for trial in found.trials for score in trial.scores]
    best = max(score.accuracy for _, score in every)
    (taken,) = [
        score
        for trial, score in every
        if (trial.number, score.epochs) == (found.chosen, found.epochs)
    ]
    assert taken.accuracy == best
    assert read_header(found.checkpoint)[1].epoch == found.epochs
    assert found.checkpoint in (Path(found.folder) / "find-teacher.md").read_text()


def test_neither_a_teacher_nor_a_probe_meets_the_test_images(found):
    assert not list(Path(found.folder).glob("*/summary.json"))


def test_what_the_student_is_scored_on_no_teacher_was_trained_on(found):
    for run in runs_in(found.folder):
        recipe = Run.load(run).recipe
        assert (recipe["seed"], recipe["data"]["val_fraction"]) == (0, 0.1)


def test_no_teacher_is_tried_twice(found):
    parameters = [tuple(trial.parameters.items()) for trial in found.trials]
    assert len(set(parameters)) == len(parameters) == 3


def test_a_teacher_that_has_been_trained_is_refused(recipes, teacher, tmp_path):
    path = tmp_path / "trained.toml"
    text = (recipes / "student.toml").read_text()
    path.write_text(text.replace('recipe = "teacher.toml"', f'checkpoint = "{teacher}"'))
    with pytest.raises(UsageError, match="a checkpoint has been trained"):
        find_teacher(path, out=tmp_path / "runs")


def test_a_recipe_of_the_teacher_will_do(recipes, tmp_path):
    result = find_teacher(
        recipes / "teacher.toml", out=tmp_path, student="cnn-small", trials=1, **SPACE
    )
    assert result.student == "cnn-small"
    assert result.trials[0].last.epochs == 3
    with pytest.raises(UsageError, match="another search: its epochs of the probe"):
        find_teacher(
            recipes / "teacher.toml",
            out=tmp_path,
            student="cnn-small",
            **(SPACE | {"probe_epochs": 2}),
        )
