"""Teachers that stopped early teach: by a shortened recipe, and as a checkpoint along a longer
training.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcli.files import read_json
from kdcli.jobs import distill, train_teacher
from kdcli.jobs.events import Prepared
from kdcli.results.weights_header import kept_along, read_header

TEACHER = (
    '[model]\nname = "mlp"\n[data]\nname = "digits"\n[train]\nepochs = 4\nkeep_every = '
    "1\n[report]\nhtml = false\n"
)
LEARN = {"train.epochs": 1, "report.html": False}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A teacher of four epochs, every one of which was kept; the recipe beside its runs."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "teacher.toml").write_text(TEACHER)
    train_teacher(folder / "teacher.toml", out=folder / "runs", name="full")
    return folder


def taught(folder, listeners=(), **teacher):
    overrides = {**LEARN, **{f"teacher.{key}": value for key, value in teacher.items()}}
    return distill(
        student="mlp",
        method="kd",
        data="digits",
        out=folder / "runs",
        listeners=listeners,
        overrides=overrides,
    )


def test_checkpoints_say_after_how_many_epochs_they_were_kept(full):
    run = full / "runs" / "full"
    files = kept_along(run / "model.safetensors", 4)
    assert [path.name for path in files] == [
        "epoch-001.safetensors",
        "epoch-002.safetensors",
        "epoch-003.safetensors",
        "model.safetensors",
    ]
    assert [read_header(path)[1].epoch for path in files] == [1, 2, 3, 4]
    assert [path.name for path in kept_along(run / "checkpoints" / "epoch-002.safetensors", 2)] == [
        "epoch-001.safetensors",
        "epoch-002.safetensors",
    ]


def test_a_checkpoint_along_a_training_is_a_teacher(full):
    path = full / "runs" / "full" / "checkpoints" / "epoch-002.safetensors"
    result = taught(full, checkpoint=str(path))
    assert (
        result.teachers[0].sha256
        == read_header(path)[1].tensors_sha256
        != read_header(full / "runs" / "full")[1].tensors_sha256
    )


def test_a_truncated_teacher_is_the_checkpoint_of_the_full_training(full):
    kept = load_file(full / "runs" / "full" / "checkpoints" / "epoch-002.safetensors")
    result = taught(full, recipe=str(full / "teacher.toml"), epochs=2, schedule="truncated")
    ours = load_file(f"{result.teachers[0].checkpoint}/model.safetensors")
    assert kept.keys() == ours.keys()
    assert all(torch.equal(kept[name], ours[name]) for name in kept)


def test_a_shortened_teacher_is_trained_once_and_anneals_its_rate(full):
    prepared = []

    def note(event):
        if isinstance(event, Prepared):
            prepared.append((event.command, event.epochs))

    results = [
        taught(full, listeners=[note], recipe=str(full / "teacher.toml"), epochs=3)
        for _ in range(2)
    ]
    assert prepared == [("train-teacher", 3), ("distill", 1), ("distill", 1)]
    assert results[0].teachers[0].sha256 == results[1].teachers[0].sha256
    kept = read_header(full / "runs" / "full" / "checkpoints" / "epoch-003.safetensors")[
        1
    ].tensors_sha256
    assert results[0].teachers[0].sha256 != kept
    assert read_json(Path(results[0].teachers[0].checkpoint, "summary.json"))["epochs"] == 3
