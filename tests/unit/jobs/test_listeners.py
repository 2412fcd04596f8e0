"""A listener that raises stops nothing, and is told of once."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import pytest

from kdcli.errors import Interrupted
from kdcli.files import sha256_file
from kdcli.jobs import distill, resume, train_teacher
from kdcli.jobs.events import EpochDone, Event, Prepared, StepDone
from kdcli.jobs.listeners import Audience, ListenerWarning
from kdcli.runs.read import Run

QUICK = {"data.train_limit": 60, "train.batch_size": 20, "report.html": False, "report.probe": 0}


def train(out, **more: Any):
    return train_teacher(model="mlp", data="digits", epochs=2, out=out, overrides=QUICK, **more)


class Broken:
    """Fails at the first event of a kind."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.heard = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, self.kind):
            self.heard += 1
            raise OSError("no room\nfor more")


@pytest.mark.parametrize("kind", [Prepared, StepDone, EpochDone])
def test_the_run_goes_on_to_the_same_bits(tmp_path, kind):
    heard: list[Event] = []
    broken = Broken(kind)
    with pytest.warns(ListenerWarning) as warned:
        result = train(tmp_path, name="a", listeners=[broken, heard.append])
    sentence = "the listener Broken hears nothing more: OSError: no room"
    assert [str(one.message) for one in warned] == [sentence]
    assert result.warnings == Run.load(result.run).summary.warnings == (sentence,)
    assert sentence in (tmp_path / "a" / "report.md").read_text()
    assert broken.heard == 1
    assert sum(isinstance(event, EpochDone) for event in heard) == 2, "others hear everything"
    train(tmp_path, name="b")
    assert sha256_file(tmp_path / "a" / "model.safetensors") == sha256_file(
        tmp_path / "b" / "model.safetensors"
    )


def test_where_warnings_are_errors_it_stops_nothing_either(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(train(tmp_path, listeners=[Broken(EpochDone)]).warnings) == 1


def test_it_is_told_of_once_where_a_teacher_is_trained_first(tmp_path):
    (tmp_path / "teacher.toml").write_text(
        '[model]\nname = "mlp"\n[data]\nname = "digits"\ntrain_limit = 60\n'
        "[train]\nepochs = 1\n[report]\nhtml = false\n"
    )
    overrides = {**QUICK, "teacher.recipe": str(tmp_path / "teacher.toml"), "student.name": "mlp"}
    broken = Broken(Prepared)
    with pytest.warns(ListenerWarning) as warned:
        distill(method="kd", out=tmp_path, epochs=1, overrides=overrides, listeners=[broken])
    assert (len(warned), broken.heard) == (1, 1)


def test_who_means_to_stop_a_run_raises_interrupted(tmp_path):
    def stop(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise Interrupted("enough")

    with pytest.raises(Interrupted, match="enough"):
        train_teacher(
            model="mlp", data="digits", epochs=2, name="r", out=tmp_path, listeners=[stop],
            overrides={**QUICK, "train.state_seconds": 0.001},
        )  # fmt: skip
    assert resume(tmp_path / "r").epochs == 2


def test_listeners_are_called_by_their_names():
    def mine(event: Event) -> None:
        raise KeyError

    audience = Audience([mine, Broken(object), lambda event: 1 / 0])
    with pytest.warns(ListenerWarning):
        audience(None)
    names = [sentence.split(" hears")[0].rpartition(".")[2] for sentence in audience.told]
    assert names == ["mine", "the listener Broken", "<lambda>"]
    assert get_args(Event)
