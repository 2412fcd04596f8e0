"""A function in a file as the teacher: it loads its weights itself, and answers as it would alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdcli.errors import UsageError
from kdcli.jobs import distill

FACTORY = """
from pathlib import Path
from safetensors.torch import load_file
from torch import nn

def net(num_classes):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    network.load_state_dict(load_file(Path(__file__).with_name("w.safetensors")))
    {more}
    return network
"""
FAST = {"train.epochs": 1, "report.html": False, "student.hidden": [8], "data.augment.crop": 0}


@pytest.fixture
def pictures(tmp_path):
    """A factory's file as FACTORY, its weights, and pictures that its network labels."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 64, generator=generator)
    save_file({"1.weight": weight, "1.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    x = np.random.default_rng(0).integers(0, 256, (90, 8, 8)).astype(np.uint8)
    seen = torch.from_numpy(x).float().div(255).sub(0.5).div(0.25).flatten(1)
    y = nn.functional.linear(seen, weight).argmax(1).numpy()
    path = tmp_path / "own.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y, mean=[0.4], std=[0.2])
    return path


def taught(tmp_path, pictures, more="", **overrides):
    (tmp_path / "mine.py").write_text(FACTORY.format(more=more))
    given = {"data.path": str(pictures), "teacher.name": f"{tmp_path}/mine.py:net"}
    return distill(
        student="mlp",
        method="kd",
        data="npz",
        out=tmp_path / "runs",
        overrides={**FAST, **given, **overrides},
    )


STATISTICS = "network.input_mean, network.input_std = (0.5,), (0.25,)"


def test_it_sees_its_own_pixels_and_answers_as_it_does_alone(pictures, tmp_path):
    found = taught(tmp_path, pictures, STATISTICS)
    (teacher,) = found.teachers
    assert teacher.checkpoint == f"{tmp_path}/mine.py:net"
    assert teacher.test.accuracy == 1.0


def test_without_statistics_it_sees_the_data_s(pictures, tmp_path):
    (teacher,) = taught(tmp_path, pictures).teachers
    assert teacher.test.accuracy < 1.0


@pytest.mark.parametrize(
    ("more", "overrides", "said"),
    [
        ("network.input_std = (0.2, 0.2)", {}, "has an input_std that is not one number for each"),
        ("network.input_std = (0.0,)", {}, "has an input_std that is not one number for each"),
        ("raise OSError('no weights')", {}, "mine.py:net failed: OSError: no weights"),
        ("network.append(nn.Linear(3, 4))", {}, r"a tensor of \[2, 4\], not \[2, 3\]"),
        ("", {"teacher.weights": "x.pt"}, "loads its weights itself"),
    ],
)
def test_what_is_wrong_is_said_before_training(more, overrides, said, pictures, tmp_path):
    with pytest.raises(UsageError, match=said):
        taught(tmp_path, pictures, more, **overrides)
    assert not (tmp_path / "runs").exists()


def test_stored_answers_are_not_those_of_other_code_with_equal_weights(
    pictures, tmp_path, monkeypatch
):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    overrides = {"teacher.cache": "exact", "data.views": 1}
    for factor in (1, -1):
        more = f"network.register_forward_pre_hook(lambda _, x: ({factor} * x[0],))"
        taught(tmp_path, pictures, more, **overrides)
    assert len(list((tmp_path / "cache").glob("logits/*.safetensors"))) == 2


def test_a_file_that_is_not_there(pictures, tmp_path):
    with pytest.raises(UsageError, match=r"gone\.py"):
        taught(tmp_path, pictures, **{"teacher.name": "gone.py:net"})
