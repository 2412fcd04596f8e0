"""Text that two processes share, part by part, and minibatches whose gradients are added up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdcli.errors import Interrupted
from kdcli.files import read_json, sha256_file
from kdcli.jobs import distill, resume, train_teacher
from tests.unit.jobs.language import test_runs, test_text_classification
from tests.unit.jobs.language.test_runs import StopAt, text
from tests.unit.jobs.language.test_text_classification import texts

__all__ = ["text", "texts"]  # fixtures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def students(text, texts, tmp_path_factory):
    """Settings of a student of each task under a teacher whose answers are stored."""
    out = tmp_path_factory.mktemp("taught")
    language = {**test_runs.settings(text), "train.epochs": 2}
    classes = {**test_text_classification.settings(texts), "train.epochs": 2}
    train_teacher(out=out, name="language", overrides={**language, **test_runs.network("model")})
    wide = {"model.name": "text_encoder", "model.width": 8, "model.layers": 1, "model.heads": 2}
    train_teacher(out=out, name="classes", overrides={**classes, **wide})
    shared = {"method.name": "kd", "teacher.cache": "exact"}
    return {
        "language": {
            **language, **shared, "teacher.checkpoint": str(out / "language"), "student.name": "lstm_small",
            "student.embedding": 6, "student.hidden": 6,
        },
        "classes": {
            **classes, **shared, "teacher.checkpoint": str(out / "classes"), "student.name": "bag_of_words",
            "student.dropout": 0.0,
        },
    }  # fmt: skip


def kd(cwd: Path, name: str, values: dict, *more: str) -> Path:
    sets = [word for key, value in values.items() for word in ("-s", f"{key}={value}".replace("True", "true").replace("False", "false"))]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kdcli", "distill", "--name", name, "-q", *sets, *more]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return cwd / "runs" / name


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.parametrize("task", ["language", "classes"])
def test_two_processes_share_a_text(students, task, tmp_path):
    two, again = (
        kd(tmp_path, name, students[task], "--device", "cpu", "--devices", "2")
        for name in ("two", "again")
    )
    alone = kd(tmp_path, "alone", students[task], "--device", "cpu")
    one, other = (sha256_file(run / "model.safetensors") for run in (two, again))
    assert one == other
    nll = [read_json(run / "summary.json")["test"]["nll"] for run in (two, alone)]
    assert nll[0] == pytest.approx(nll[1], rel=1e-3)


@pytest.mark.parametrize("task", ["language", "classes"])
def test_gradients_that_are_added_up_go_on_bit_for_bit(students, task, tmp_path):
    values = {**students[task], "train.accumulate": 3, "train.state_seconds": 1e-9}
    whole = distill(out=tmp_path, name="whole", overrides=values)
    with pytest.raises(Interrupted):
        distill(out=tmp_path, name="cut", overrides=values, listeners=[StopAt(7)])
    assert resume(tmp_path / "cut").test == whole.test
    one, other = (sha256_file(tmp_path / run / "model.safetensors") for run in ("cut", "whole"))
    assert one == other
