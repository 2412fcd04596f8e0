"""Pretrained weights and checkpoints of other classes give their body; the head is a new one, drawn
for the seed, and the run says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdcli.errors import Incompatible
from kdcli.jobs import build_network, distill, train_teacher
from kdcli.results.weights_header import read_header
from kdcli.runs.read import Run

NAME = "torchvision/shufflenet_v2_x0_5"
SHAPE = (3, 32, 32)
FAST = {"train.epochs": 1, "report.html": False, "optim.lr": 1e-9, "train.batch_size": 8}


def pictures(folder: Path, classes: int = 3, channels: int = 3, names=None) -> str:
    x = np.random.default_rng(0).integers(0, 256, (16, 32, 32, channels)).astype(np.uint8)
    y = np.arange(16) % classes
    more = {} if names is None else {"classes": names}
    np.savez(folder / f"{classes}.npz", x_train=x, y_train=y, x_test=x, y_test=y, **more)
    return str(folder / f"{classes}.npz")


def test_the_head_is_a_function_of_seed_and_copy_alone(made_weights):
    made_weights("shufflenet_v2_x0_5")

    def head(**which):
        options = {"weights": "DEFAULT"}
        built = build_network(NAME, num_classes=5, input_shape=SHAPE, options=options, **which)
        return built.head.weight

    first = head(seed=1)
    made_weights("shufflenet_v2_x0_5")  # another body
    assert torch.equal(head(seed=1), first)
    assert not torch.equal(head(seed=2), first)
    assert not torch.equal(head(seed=1, copy=1), first)


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_training_starts_from_pretrained_weights(made_weights, tmp_path, kind):
    made = made_weights("shufflenet_v2_x0_5")
    section = "model" if kind == "teacher" else "student"
    overrides = {**FAST, "data.path": pictures(tmp_path), f"{section}.weights": "DEFAULT"}
    if kind == "teacher":
        run = train_teacher(model=NAME, data="npz", out=tmp_path, overrides=overrides)
    else:
        own = {key: value for key, value in overrides.items() if not key.startswith("student.")}
        teacher = train_teacher(model="cnn-small", data="npz", out=tmp_path, overrides=own)
        run = distill(
            student=NAME, method="kd", teacher=teacher.run, out=tmp_path, overrides=overrides
        )
    body = f"the body is that of {NAME} (DEFAULT), whose head predicts 1000 classes"
    assert run.notes == (f"new head for 3 classes: {body}",)
    assert "new head for 3 classes" in (Path(run.run) / "report.md").read_text()
    assert "new head for 3 classes" in (Path(run.run) / "MODEL_CARD.md").read_text()
    tensors = load_file(run.checkpoint)
    assert torch.allclose(tensors["net.conv1.0.weight"], made["conv1.0.weight"], atol=1e-6)
    assert tensors["head.weight"].shape[0] == 3
    assert Run.load(run.run).summary == run
    assert read_header(run.run)[1].num_classes == 3


def test_a_teacher_is_not_given_a_random_head(made_weights, tmp_path):
    overrides = {
        **FAST,
        "data.path": pictures(tmp_path),
        "teacher.name": NAME,
        "teacher.weights": "DEFAULT",
    }
    with pytest.raises(Incompatible, match="predicts 1000 classes, npz has 3") as caught:
        distill(student="cnn-small", method="kd", data="npz", out=tmp_path, overrides=overrides)
    assert f"kd train-teacher --model {NAME} -s model.weights=DEFAULT" in caught.value.hint


def learn(folder: Path, classes: int, names: list[str], **overrides):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(np.uint8)
    y = np.arange(40) % classes
    path = folder / f"{''.join(names)}.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y, classes=names)
    options = {**FAST, "data.path": str(path), "model.hidden": [8], **overrides}
    return train_teacher(model="mlp", data="npz", out=folder, overrides=options)


def test_a_checkpoint_of_other_classes_gives_its_body(tmp_path):
    start = learn(tmp_path, 4, list("abcd"))
    own = load_file(start.checkpoint)
    body = [key for key in own if not key.startswith("head.")]
    for names, said in {
        "xyz": "4 classes",
        "wxyz": "other classes (a, b, c and 1 more)",
        "dcba": "other classes (a, b, c and 1 more)",
        "abcd": None,
        "0123": None,  # no names that could differ
    }.items():
        run = learn(tmp_path, len(names), list(names), **{"model.init": start.run})
        found = load_file(run.checkpoint)
        assert all(torch.allclose(found[key], own[key], atol=1e-6) for key in body)
        if said is None:
            assert torch.allclose(found["head.weight"], own["head.weight"], atol=1e-6)
            assert run.notes == ()
        else:
            fresh = build_network(
                "mlp", num_classes=len(names), input_shape=(1, 8, 8), options={"hidden": [8]}
            )
            assert torch.allclose(found["head.weight"], fresh.head.weight, atol=1e-6)
            head = f"the body is that of {start.run}, whose head predicts {said}"
            assert run.notes == (f"new head for {len(names)} classes: {head}",)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    start = learn(tmp_path, 3, list("abc"))
    with pytest.raises(Incompatible, match="does not fit mlp"):
        learn(tmp_path, 4, list("wxyz"), **{"model.init": start.run, "model.hidden": [9]})
