"""A teacher of other classes: it teaches through a class map, and is measured through it from then
on.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from kdcli.errors import Incompatible, UsageError
from kdcli.jobs import analyze_gap, distill, evaluate
from kdcli.results.weights_header import read_header
from kdcli.runs.read import Run

MAP = {"round": ["0", 6, 8, 9], "straight": [1, 3, 4, 7], "bent": [2]}  # 5 is left out
FAST = {"train.epochs": 1, "report.html": False, "student.hidden": [8], "data.augment.crop": 0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Digits by their shape: three classes in one file."""
    digits = load_digits()
    kind = np.array([0, 1, 2, 1, 1, 2, 0, 1, 0, 0])[digits.target]
    x = (digits.images / 16 * 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("shapes") / "shapes.npz"
    np.savez(
        path,
        x_train=x[:300],
        y_train=kind[:300],
        x_test=x[1400:],
        y_test=kind[1400:],
        classes=np.array(["round", "straight", "bent"]),
    )
    return path


def taught(shapes, out, teacher, classes=MAP, method="kd", **more):
    return distill(
        student="mlp",
        method=method,
        data="npz",
        out=out,
        overrides={
            **FAST,
            "data.path": str(shapes),
            **teacher,
            **({} if classes is None else {"teacher.classes": classes}),
            **more,
        },
    )


def test_a_run_and_what_is_measured_later_go_by_one_map(trained, shapes, tmp_path):
    teacher = trained.out / "teacher"
    found = taught(shapes, tmp_path, {"teacher.checkpoint": str(teacher)})
    assert found.teachers[0].test.accuracy > 0.6  # of ten classes, some of them never asked for
    assert found.notes == (
        "round <- 4 of the teacher's classes: 0, 6, 8, 9",
        "straight <- 4 of the teacher's classes: 1, 3, 4, 7",
        "bent <- 2",
        "of the teacher's 10 classes 1 are left out",
    )
    header = read_header(found.run)[1]
    assert header.teacher_classes == {
        read_header(teacher)[1].tensors_sha256: ((0, 6, 8, 9), (1, 3, 4, 7), (2,))
    }
    report = analyze_gap(teacher, [found.run], bootstrap=2, explain=False)
    assert report.teacher.measures.accuracy == found.teachers[0].test.accuracy
    raw = next(pair for pair in report.pairs if pair.form == "raw")
    at_one = next(at for at in raw.at if at.temperature == 1)
    assert at_one.entropy.value == pytest.approx(found.gap.entropy, abs=1e-6)
    student, through = evaluate([found.run, teacher]).evaluations
    assert through.measures.accuracy == found.teachers[0].test.accuracy
    assert student.measures.accuracy == found.test.accuracy
    (alone,) = evaluate([teacher]).evaluations
    assert alone.data == "digits"
    again = Run.load(tmp_path / found.name).recipe
    assert again["teacher"]["classes"] == MAP


def test_without_a_map_unequal_classes_are_refused_with_a_way_out(trained, shapes, tmp_path):
    with pytest.raises(Incompatible, match="predicts 10 classes, npz has 3") as caught:
        taught(shapes, tmp_path, {"teacher.checkpoint": str(trained.out / "teacher")}, None)
    assert "teacher.classes says which of its classes are which" in caught.value.hint


@pytest.mark.parametrize(
    ("classes", "method", "said"),
    [
        ({**MAP, "bent": ["two"]}, "kd", "the teacher has no class 'two'"),
        ({**MAP, "bent": [9]}, "kd", "the teacher's class '9' is in 'round' and in 'bent'"),
        ({"round": [0]}, "kd", "says nothing of the data's class 'straight'"),
        (MAP, "kd_sim", "tells its own classes apart"),
    ],
)
def test_what_does_not_fit_is_said_before_training(
    classes, method, said, trained, shapes, tmp_path
):
    teacher = {"teacher.checkpoint": str(trained.out / "teacher")}
    with pytest.raises(UsageError, match=said):
        taught(shapes, tmp_path / "runs", teacher, classes, method)
    assert not (tmp_path / "runs").exists()


FACTORY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    network.class_names = ["ring", "bar", "hook", "blot"]
    return network
"""


def test_stored_answers_are_those_of_the_map(shapes, tmp_path, monkeypatch):
    """And a function in a file may name its classes."""
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(FACTORY)
    first = {"round": "ring", "straight": ["bar", "blot"], "bent": "hook"}
    second = {"round": "ring", "straight": "bar", "bent": ["hook", "blot"]}
    teacher = {"teacher.name": f"{tmp_path}/mine.py:net", "teacher.cache": "exact"}
    losses = [
        taught(shapes, tmp_path, teacher, classes).train_losses["kd"]
        for classes in (first, second, first)
    ]
    assert losses[0] == losses[2] != losses[1]
    assert len(list((tmp_path / "cache").glob("logits/*.safetensors"))) == 2


def test_a_factory_that_names_too_few_classes(shapes, tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY.replace(', "blot"', ""))
    with pytest.raises(UsageError, match="not one name for each of its 4 classes"):
        taught(shapes, tmp_path, {"teacher.name": f"{tmp_path}/mine.py:net"})


def test_weights_of_a_file_teach_through_a_map(tmp_path, shapes):
    """timm's, of as many classes as the file has."""
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'kdcli[timm]'")
    from safetensors.torch import save_file

    with np.load(shapes) as given:
        coloured = dict(given)
    for key in ("x_train", "x_test"):
        coloured[key] = np.repeat(coloured[key][:40, ..., None], 3, axis=3)
        coloured[f"y{key[1:]}"] = coloured[f"y{key[1:]}"][:40]
    np.savez(tmp_path / "coloured.npz", **coloured)
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=5)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    found = taught(
        tmp_path / "coloured.npz",
        tmp_path,
        {"teacher.name": "timm/test_resnet", "teacher.weights": f"{tmp_path}/w.safetensors"},
        {"round": [0, 3], "straight": [1], "bent": [2, 4]},
    )
    assert found.notes[0] == "round <- 2 of the teacher's classes: 0, 3"
