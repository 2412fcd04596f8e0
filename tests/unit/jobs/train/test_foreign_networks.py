"""A network of another library from its training to its use as a teacher, and a student of it that
goes on from the middle.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.engine.checkpoint import digest
from kdcli.engine.events import StepDone
from kdcli.errors import Incompatible, Interrupted
from kdcli.jobs import distill, evaluate, resume, train_teacher
from kdcli.jobs.build.networks import load_network
from kdcli.results.weights_header import read_header

VIT = "timm/vit_tiny_patch16_224"
SMALL = {"depth": 4, "embed_dim": 24, "num_heads": 3, "patch_size": 2}
SHORT = {"data.name": "digits", "data.train_limit": 128, "report.html": False, "train.epochs": 1}


MINE = """
from torch import nn

def net(num_classes, input_shape):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(input_shape[0], 6, 3, padding=1), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def test_modules_of_somebodys_network_are_taps_of_student_and_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE, encoding="utf-8")
    teacher = train_teacher(model="mine.py:net", overrides=SHORT, out=tmp_path, name="teacher")
    taps = {"stage1": "0", "stage2": "1.0"}
    given = {**SHORT, "student.taps": taps, "teacher.taps": {"stage1": "0", "stage2": "1"}}
    student = distill(
        teacher=teacher.run,
        student="mine.py:net",
        method="fitnet",
        overrides=given,
        out=tmp_path,
        name="student",
    )
    assert read_header(student.run)[1].arguments == {"taps": taps}
    # as a teacher it has the taps that it was trained with
    again = distill(
        teacher=student.run,
        student="mine.py:net",
        method="at",
        overrides={**SHORT, "student.taps": taps},
        out=tmp_path,
        name="again",
    )
    assert again.train_losses["at"] > 0
    with pytest.raises(Incompatible, match=r"at reads 'stage\*'"):
        distill(
            teacher=teacher.run,
            student="mine.py:net",
            method="at",
            overrides=SHORT,
            out=tmp_path,
        )


def test_trained_evaluated_a_teacher_and_resumed(tmp_path):
    pytest.importorskip("timm", reason="timm is not installed: pip install 'kdcli[timm]'")
    teacher = train_teacher(
        model=VIT,
        overrides={**SHORT, "model.arguments": SMALL},
        out=tmp_path,
        name="teacher",
    )
    _, header = read_header(teacher.run)
    assert (header.architecture, header.arguments) == (VIT, {"arguments": SMALL})
    assert evaluate([teacher.run]).evaluations[0].measures.accuracy == teacher.test.accuracy

    given = {
        "teacher": str(teacher.run),
        "student": VIT,
        "method": "at",
        "overrides": {**SHORT, "student.arguments": {**SMALL, "depth": 2}},
        "out": tmp_path,
    }
    straight = distill(**given, name="straight")

    def stop(event: object) -> None:
        if isinstance(event, StepDone):
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        distill(**given, name="stopped", listeners=[stop])
    resumed = resume(tmp_path / "stopped")
    assert resumed.test.accuracy == straight.test.accuracy
    assert digest(load_network(resumed.run)[0].state_dict()) == digest(
        load_network(straight.run)[0].state_dict()
    )
