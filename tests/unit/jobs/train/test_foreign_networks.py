"""A network of another library from its training to its use as a teacher, and a student of it that
goes on from the middle.
"""

from __future__ import annotations

import pytest

from kdcli.engine.checkpoint import digest
from kdcli.engine.events import StepDone
from kdcli.errors import Interrupted
from kdcli.jobs import distill, evaluate, resume, train_teacher
from kdcli.jobs.build.networks import load_network
from kdcli.results.weights_header import read_header

pytest.importorskip("timm", reason="timm is not installed: pip install 'kdcli[timm]'")

VIT = "timm/vit_tiny_patch16_224"
SMALL = {"depth": 4, "embed_dim": 24, "num_heads": 3, "patch_size": 2}
SHORT = {"data.name": "digits", "data.train_limit": 128, "report.html": False, "train.epochs": 1}


def test_trained_evaluated_a_teacher_and_resumed(tmp_path):
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
