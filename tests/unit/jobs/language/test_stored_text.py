"""A teacher's answers to a text, stored before training: resumed, bounded, and the same for all."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kdcli.engine.teachers import stored_text
from kdcli.engine.teachers.row_format import Shape
from kdcli.errors import Incompatible, Interrupted
from kdcli.files import read_json, sha256_file
from kdcli.jobs import distill, fill_cache, resume, train_teacher
from kdcli.jobs.events import Storing
from kdcli.recipe.resolve import resolve
from tests.unit.jobs.language.test_runs import network, settings, text

__all__ = ["text"]  # a fixture


@pytest.fixture(scope="module")
def teacher(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("taught")
    values = {**settings(text), **network("model"), "train.epochs": 2}
    train_teacher(out=out, name="teacher", overrides=values)
    return out / "teacher"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "logits"


def student(text, teacher, **changes):
    return {
        **settings(text), "train.epochs": 2, "teacher.checkpoint": str(teacher), "student.name": "lstm_small",
        "student.embedding": 8, "student.hidden": 8, "method.name": "kd", "teacher.cache": "exact", **changes,
    }  # fmt: skip


def weights(run):
    return sha256_file(Path(run.run) / "model.safetensors")


class StopStoring:
    def __init__(self, windows):
        self.left = windows

    def __call__(self, event):
        if isinstance(event, Storing):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_the_whole_answers_teach_what_the_teacher_does(text, teacher, tmp_path, cache):
    live = distill(out=tmp_path, overrides=student(text, teacher, **{"teacher.cache": "off"}))
    first = distill(out=tmp_path, overrides=student(text, teacher))
    assert first.test.nll == pytest.approx(live.test.nll, abs=1e-3)
    environment = read_json(Path(first.run) / "environment.json")["teacher_logits"][0]
    assert (
        environment["reason"]
        == "asked for; 28 bytes a token, one pass over the text before training"
    )
    (table,) = cache.iterdir()
    before = sha256_file(table)
    again = distill(out=tmp_path, overrides=student(text, teacher, seed=0))
    assert weights(again) == weights(first)
    assert sha256_file(table) == before


def test_a_filling_that_was_stopped_goes_on(text, teacher, tmp_path, cache):
    values = student(text, teacher, **{"teacher.cache_top": 4})
    whole = distill(out=tmp_path, name="whole", overrides=values)
    (table,) = cache.iterdir()
    expected = table.read_bytes()
    table.unlink()
    with pytest.raises(Interrupted):
        distill(out=tmp_path, name="cut", overrides=values, listeners=[StopStoring(11)])
    assert sorted(path.suffixes[0] for path in cache.iterdir()) == [".safetensors", ".states"]
    told = []
    assert resume(tmp_path / "cut", listeners=[told.append]).test == whole.test
    # the eleven windows of before are not read again
    assert len([event for event in told if isinstance(event, Storing)]) == -(-199 // 7) - 11
    assert [path.read_bytes() for path in cache.iterdir()] == [expected]


def test_what_is_left_out_costs_no_more_than_the_bound(text, teacher, tmp_path, cache):
    resolved = resolve("distill", values=student(text, teacher, **{"teacher.cache_top": 3}))
    (planned,) = fill_cache(resolved, out=tmp_path, size_only=True).tables
    assert (planned.sample, planned.bytes // planned.rows) == ("token", 18)
    assert not cache.exists()
    (table,) = fill_cache(resolved, out=tmp_path).tables
    assert table.stored == table.rows
    assert 0 < table.left_out < 1
    one = next(each for each in table.error if each.temperature == 1)
    assert one.mean < one.max <= table.bound + 1e-3
    assert table.bound < math.log(9)
    # the others share what they have together evenly: the bound is met where only one has it
    logits = torch.tensor([[3.0, 2.0, 1.5, -20.0, -20.0]])
    shape = Shape(1, 1, 5, 2)
    words = shape.pack(logits)
    own, stored = logits.log_softmax(1), shape.unpack(words).log_softmax(1)
    divergence = float((own.exp() * (own - stored)).sum())
    assert divergence == pytest.approx(float(shape.rest(words)) * math.log(3), rel=1e-3)


def test_answers_that_depend_on_where_a_window_begins_are_not_stored(text, tmp_path, cache):
    values = settings(text, **{"train.epochs": 1, "model.name": "gpt_small", "model.width": 8,
        "model.heads": 1, "model.context": 60})  # fmt: skip
    train_teacher(out=tmp_path, name="gpt", overrides=values)
    with pytest.raises(Incompatible, match="random ones begin elsewhere in each epoch"):
        distill(out=tmp_path, overrides=student(text, tmp_path / "gpt"))
    run = distill(
        out=tmp_path, overrides=student(text, tmp_path / "gpt", **{"data.random_windows": False})
    )
    assert math.isfinite(run.test.nll)
    assert not [path for path in cache.iterdir() if ".states" in path.name]


def test_a_state_that_does_not_fit_is_no_state(tmp_path):
    table = tmp_path / "table.safetensors"
    stored_text._states_of(table).write_bytes(b"nothing")

    class Known:
        network = type("N", (torch.nn.Linear,), {"context": None})(1, 1)

        class table:  # noqa: N801
            path = tmp_path / "table.safetensors"

    assert stored_text._begun(Known, stored_text.Carried(), 5) == 0
