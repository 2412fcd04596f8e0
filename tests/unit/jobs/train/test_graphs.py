"""A whole run whose steps are replayed, with a tape in the place of CUDA graphs."""

from __future__ import annotations

from unittest.mock import PropertyMock, patch

import pytest
from safetensors.torch import load_file

from kdcli.engine import runtime
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime
from kdcli.errors import DeviceUnavailable
from kdcli.jobs import distill, train_teacher
from tests.catalogue.tape import Tape, Unable


@pytest.fixture
def teacher(tmp_path):
    overrides = {"data.train_limit": 320, "report.html": False}
    return train_teacher(
        model="cnn-small",
        data="digits",
        epochs=1,
        out=tmp_path,
        name="teacher",
        overrides=overrides,
    ).run


@pytest.fixture
def run(teacher, tmp_path, monkeypatch):
    def go(recorder, name, cache):
        monkeypatch.setattr(
            runtime, "choose_graphs", lambda wanted, device: Choice("on", "asked for")
        )
        monkeypatch.setattr(runtime, "CudaRecorder", lambda device: recorder)
        overrides = {
            "data.train_limit": 320,
            "teacher.cache": cache,
            "runtime.precision": "fp32",
            "runtime.threads": 1,
            "report.html": False,
        }
        with patch.object(Runtime, "synchronous", new_callable=PropertyMock, return_value=False):
            distill(
                teacher=teacher,
                student="cnn-small",
                method="skd",
                epochs=2,
                out=tmp_path,
                name=name,
                overrides=overrides,
            )
        return load_file(tmp_path / name / "model.safetensors"), (
            tmp_path / name / "log.txt"
        ).read_text()

    return go


def test_a_replayed_run_ends_as_a_usual_one_and_says_what_it_does(run):
    tape = Tape()
    replayed, log = run(tape, "replayed", "off")
    usual, refused = run(Unable(), "usual", "off")
    assert tape.replays == [3, 3]  # five minibatches of 64 an epoch
    assert all((replayed[key] == tensor).all() for key, tensor in usual.items())
    assert "steps are replayed from a CUDA graph" in log
    assert (
        "steps are taken without a CUDA graph: the device refused: operation not permitted"
        in refused
    )


def test_logits_that_are_looked_up_in_a_file_are_no_work_for_a_graph(run):
    tape = Tape()
    _, log = run(tape, "stored", "exact")
    assert tape.replays == []
    assert "steps are taken without a CUDA graph: it makes the host wait" in log


def test_asking_for_graphs_on_a_cpu_is_a_mistake(tmp_path):
    with pytest.raises(
        DeviceUnavailable, match="only CUDA devices have graphs, and this job is on cpu"
    ):
        train_teacher(
            "quickstart-teacher",
            overrides={"runtime.graphs": "on", "runtime.device": "cpu"},
            out=tmp_path,
        )
