"""A network that guesses is named: a teacher before anything is trained under it, and whatever a
run ends with.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kdcli.engine.checkpoint import load_weights, save_model
from kdcli.jobs import distill, train_teacher
from kdcli.jobs.build.networks import load_network
from kdcli.jobs.events import Prepared, StageStarted
from kdcli.jobs.measure.chance import chance, no_better
from kdcli.results.weights_header import read_header
from tests.unit.jobs.conftest import QUICK

FAST = {**QUICK, "train.epochs": 1, "student.hidden": [4], "report.probe": 0}


def scrambled(teacher: Path, to: Path) -> str:
    """A checkpoint whose answers are those of other classes, and sure."""
    network, header, _ = load_network(teacher)
    load_weights(read_header(teacher)[0], network)
    with torch.no_grad():
        network.head.weight.copy_(3 * network.head.weight.roll(1, 0))
        network.head.bias.copy_(3 * network.head.bias.roll(1, 0))
    save_model(to / "model.safetensors", network, header)
    return str(to / "model.safetensors")


@pytest.mark.parametrize("cache", ["off", "exact"])
@pytest.mark.parametrize("held_out", [0.1, 0.0])
def test_a_teacher_that_guesses_is_told_before_training(trained, tmp_path, held_out, cache):
    teacher = scrambled(trained.out / "teacher", tmp_path)
    said: list[object] = []
    overrides = {**FAST, "data.val_fraction": held_out, "teacher.cache": cache}
    run = distill(
        teacher=teacher,
        method="kd",
        student="mlp",
        out=tmp_path,
        overrides=overrides,
        listeners=[said.append],
    )
    places = [type(event) for event in said]
    assert places.index(Prepared) < places.index(StageStarted)
    (warning,) = said[places.index(Prepared)].warnings
    assert warning.startswith(f"teacher {teacher} is right about ")
    assert f" {'held-out' if held_out else 'training'} images, where guessing is about" in warning
    assert any(f"the NLL of teacher {teacher}" in warning for warning in run.warnings)


def test_a_good_teacher_is_not_and_changes_nothing(trained, tmp_path):
    said: list[object] = []
    run = distill(
        teacher=str(trained.out / "teacher"),
        method="kd",
        student="mlp",
        out=tmp_path,
        overrides={**QUICK, "student.hidden": [12]},
        listeners=[said.append],
    )
    assert next(event for event in said if isinstance(event, Prepared)).warnings == ()
    assert run.test == trained.kd.test


def test_a_network_that_ends_at_chance_or_worse_is_told(tmp_path):
    diverged = train_teacher(
        model="mlp", data="digits", out=tmp_path, overrides={**QUICK, "optim.lr": 1e-9}
    )
    assert any("no better than guessing" in warning for warning in diverged.warnings)
    assert diverged.warnings[0].startswith("the network is right about")
    if diverged.test.nll > math.log(10):
        assert "above log K = 2.303" in diverged.warnings[1]
    page = (Path(diverged.run) / "report.md").read_text()
    assert "no better than guessing" in page


def test_guessing_is_the_most_frequent_class():
    assert chance(torch.tensor([0, 0, 0, 1]), 4) == 0.75
    assert chance(torch.tensor([0, 1, 2, 3]), 4) == 0.25
    assert no_better(0.2, 20, 0.1)
    assert not no_better(0.3, 20, 0.1)
    assert not no_better(0.12, 10_000, 0.1)
