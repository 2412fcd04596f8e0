"""report.track: what a run says is found in the tool that was asked for, and no tool stops a run."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from kdcli.errors import Interrupted, UsageError
from kdcli.files import sha256_file
from kdcli.jobs import resume, train_teacher
from kdcli.jobs.events import EpochDone
from kdcli.jobs.listeners import ListenerWarning
from kdcli.jobs.train.trackers import start
from kdcli.jobs.train.trackers.numbers import Tracked

QUICK = {
    "data.train_limit": 60,
    "data.val_fraction": 0.1,
    "train.batch_size": 20,
    "report.html": False,
    "report.latency": False,
}


def train(out: Path, *names: str, stop_after: int = 0, **more: Any):
    def stop(event: object) -> None:
        if isinstance(event, EpochDone) and event.at.epoch == stop_after:
            raise Interrupted("stop")

    overrides = {**QUICK, "report.track": list(names), "train.state_seconds": 0.001, **more}
    return train_teacher(
        model="mlp", data="digits", epochs=3, name="r", out=out, overrides=overrides,
        listeners=[stop],
    )  # fmt: skip


def lines(run: Path) -> list[dict[str, Any]]:
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["event"] == "epoch"]


# ---- each by itself ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("stop_after", [0, 2])
def test_tensorboard_has_every_epoch_once_and_the_result(tmp_path, stop_after):
    pytest.importorskip("tensorboard", reason="an extra, kdcli[track]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if stop_after:
        with pytest.raises(Interrupted):
            train(tmp_path, "tensorboard", stop_after=2)
        result = resume(tmp_path / "r")
    else:
        result = train(tmp_path, "tensorboard")
    assert result.warnings == ()
    read = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    read.Reload()

    def series(name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in read.Scalars(name)]

    epochs = lines(tmp_path / "r")
    for name, of in {
        "loss/ce": lambda line: line["losses"]["ce"],
        "accuracy/train": lambda line: line["train_accuracy"],
        "accuracy/val": lambda line: line["val"]["accuracy"],
        "lr": lambda line: line["lr"],
        "entropy/network/tau-4": lambda line: line["probe"]["networks"]["network"]["at"][1][
            "entropy"
        ],
    }.items():
        shown = [point for point in series(name) if point[0]]
        assert [step for step, _ in shown] == [1, 2, 3], name
        assert [value for _, value in shown] == pytest.approx([of(line) for line in epochs])
    assert series("entropy/network/tau-1")[0][0] == 0, "before the first step"
    assert series("result/test.accuracy")[-1][1] == pytest.approx(result.test.accuracy)
    recipe = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optim.momentum" in recipe


class Recorder:
    """Stands in for a tool: keeps what it is told."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.ended: list[int] = []

    def init(self, **given: Any) -> Recorder:
        self.given = given
        return self

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch) -> Recorder:
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    recorder = Recorder()
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]  # it is installed
    module.init, module.Settings = recorder.init, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return recorder


def test_wandb_stays_offline_and_goes_on_in_the_same_run(tmp_path, wandb):
    with pytest.raises(Interrupted):
        train(tmp_path, "wandb", stop_after=1)
    first = wandb.given
    assert (first["mode"], first["dir"], first["name"]) == ("offline", str(tmp_path), "r")
    assert first["config"]["optim.lr"] == 0.05
    assert wandb.ended == [1]
    result = resume(tmp_path / "r")
    assert wandb.given["id"] == first["id"]
    assert wandb.given["resume"] == "allow"
    assert wandb.ended == [1, 0]
    assert wandb.logged[-1]["epoch"] == 3
    assert wandb.logged[-1]["loss/ce"] == lines(tmp_path / "r")[-1]["losses"]["ce"]
    assert wandb.summary["result/test.accuracy"] == result.test.accuracy
    assert wandb.summary["result/val.n"] == result.val.n


def test_what_the_user_s_environment_says_wins(tmp_path, wandb, monkeypatch):
    for name, value in {"MODE": "online", "PROJECT": "mine", "DIR": "elsewhere"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    train(tmp_path, "wandb")
    assert wandb.given["mode"] is None, "it reads WANDB_MODE itself"
    assert (wandb.given["project"], wandb.given["dir"]) == ("mine", "elsewhere")


@pytest.mark.slow
def test_wandb_itself_takes_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="an extra, kdcli[track]")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert train(tmp_path, "wandb").warnings == ()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("run-*.wandb"))


@pytest.mark.slow
def test_mlflow_has_every_epoch_and_the_result(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="an extra, kdcli[track]")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(Interrupted):
        train(tmp_path, "mlflow", stop_after=1)
    result = resume(tmp_path / "r")
    assert result.warnings == ()
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("kd").experiment_id])
    assert (run.info.run_name, run.info.status) == ("r", "FINISHED")
    assert run.data.params["optim.lr"] == "0.05"
    assert run.data.metrics["result/test.accuracy"] == result.test.accuracy
    shown = {one.step: one.value for one in client.get_metric_history(run.info.run_id, "loss/ce")}
    assert shown == {line["epoch"]: line["losses"]["ce"] for line in lines(tmp_path / "r")}


# ---- none of them stops a run --------------------------------------------------------------------


@pytest.mark.parametrize("at", ["__init__", "__call__", "finish"])
def test_a_tracker_that_fails_stops_nothing(tmp_path, monkeypatch, at):
    class Failing:
        name = "wandb"

        def __init__(self, run: Tracked) -> None:
            self.heard("__init__")

        def heard(self, place: str) -> None:
            if place == at:
                raise ConnectionError("the server is gone")

        def __call__(self, event: object) -> None:
            self.heard("__call__")

        def finish(self, result: object) -> None:
            self.heard("finish")

        def close(self, *, finished: bool) -> None:
            self.heard("close")

    module = types.SimpleNamespace(PACKAGE="json", Tracker=Failing)
    monkeypatch.setattr(start, "_module", lambda _: module)
    with pytest.warns(ListenerWarning, match="the tracker wandb hears nothing more"):
        result = train(tmp_path / "a", "wandb")
    sentence = "the tracker wandb hears nothing more: ConnectionError: the server is gone"
    assert result.warnings == (sentence,)
    train(tmp_path / "b")
    assert sha256_file(tmp_path / "a" / "r" / "model.safetensors") == sha256_file(
        tmp_path / "b" / "r" / "model.safetensors"
    )


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_one_that_is_not_installed_is_refused_before_training(tmp_path, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        UsageError, match=f"report.track names {name}, which is not installed"
    ) as it:
        train(tmp_path, name)
    assert "pip install 'kdcli[track]'" in (it.value.hint or "")
    assert list(tmp_path.iterdir()) == []
