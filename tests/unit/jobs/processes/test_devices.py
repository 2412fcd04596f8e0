"""Several devices, as far as one process can tell: what is refused, what torchrun says, and whose
device and threads are whose.
"""

from __future__ import annotations

import signal

import pytest
import torch

from kdcli.engine.distributed import Ranks
from kdcli.errors import DeviceUnavailable, Exit, Interrupted, RecipeInvalid, Terminated, UsageError
from kdcli.jobs import distill, resume, run_sweep, train_teacher
from kdcli.jobs.processes import devices
from kdcli.jobs.processes.signals import StopRequest
from kdcli.recipe.resolve import resolve
from kdcli.recipe.writing import dump, recipe_hash


def recipe(**values):
    return resolve(
        "train-teacher", values={f"runtime.{key}": value for key, value in values.items()}
    )


@pytest.fixture
def torchrun(monkeypatch):
    """Pretend that torchrun started so many processes, this one the last of them."""

    def pretend(size: int) -> None:
        facts = {
            "RANK": size - 1,
            "LOCAL_RANK": size - 1,
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "x",
            "MASTER_PORT": 1,
        }
        for name, value in facts.items():
            monkeypatch.setenv(name, str(value))

    return pretend


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_more_devices_than_there_are_is_one_sentence_and_exit_2(
    two_gpus, tmp_path, device, dry_run
):
    with pytest.raises(
        DeviceUnavailable, match=r"^3 devices were asked for, and this machine has 2 CUDA devices$"
    ) as found:
        train_teacher(devices=3, device=device, out=tmp_path, dry_run=dry_run)
    assert found.value.exit_code == Exit.USAGE
    assert found.value.hint == "--devices 2 at most"
    assert not list(tmp_path.iterdir())


def test_more_ranks_than_cores_only_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1}, raising=False)
    with pytest.raises(
        DeviceUnavailable, match=r"^3 devices were asked for, and this machine has 2 CPU cores$"
    ):
        train_teacher(devices=3, device="cpu", out=tmp_path)


def test_one_device_and_several_contradict_each_other():
    with pytest.raises(RecipeInvalid) as found:
        recipe(device="cuda:1", devices=2)
    (problem,) = found.value.diagnostics
    assert (problem.key, problem.problem) == (
        "runtime.devices",
        "cuda:1 is one device, and 2 are asked for",
    )
    assert recipe(device="cuda:1", devices=1).recipe.runtime.device == "cuda:1"


def test_a_minibatch_holds_two_images_for_each_device():
    with pytest.raises(RecipeInvalid) as found:
        resolve("train-teacher", values={"runtime.devices": 4, "train.batch_size": 7})
    (problem,) = found.value.diagnostics
    assert problem.problem == "4 devices share a minibatch of 7: each needs two images or more"
    resolve("train-teacher", values={"runtime.devices": 4, "train.batch_size": 8})


def test_a_run_is_the_same_run_on_any_number_of_devices():
    assert recipe_hash(recipe(devices=2).recipe) == recipe_hash(recipe().recipe)


def test_torchrun_says_how_many(torchrun):
    torchrun(2)
    found = devices.settled(recipe())
    assert found.recipe.runtime.devices == 2
    assert "devices = 2" in dump(found.recipe, found.origins)
    assert found.origins["runtime.devices"] == "torchrun"
    same = recipe(devices=2)
    assert devices.settled(same) is same


def test_torchrun_and_the_recipe_must_not_disagree(torchrun):
    torchrun(3)
    with pytest.raises(UsageError, match=r"runtime\.devices is 2, and 3 ranks were started"):
        devices.settled(recipe(devices=2))
    with pytest.raises(UsageError, match="cuda:0 is one device, and 3 are asked for"):
        devices.settled(recipe(device="cuda:0"))
    with pytest.raises(UsageError, match="3 devices share a minibatch of 4"):
        devices.settled(resolve("train-teacher", values={"train.batch_size": 4}))


def test_one_process_of_torchrun_is_a_process(torchrun):
    torchrun(1)
    asked = recipe(devices=2)
    assert devices.settled(asked) is asked


@pytest.mark.parametrize(("had", "words"), [(1, "one process"), (2, "2 ranks")])
def test_a_run_goes_on_with_as_many_ranks_as_it_had(torchrun, tmp_path, had, words):
    torchrun(4)
    resolved = recipe(devices=had)
    (tmp_path / "recipe.toml").write_text(dump(resolved.recipe))
    (tmp_path / "environment.json").write_text('{"kind": "train-teacher", "recipe_sha256": ""}')
    with pytest.raises(
        UsageError, match=f"was trained by {words}, and torchrun started 4"
    ) as found:
        resume(tmp_path)
    assert "without torchrun" in found.value.hint


def test_what_is_one_process_refuses_torchrun(torchrun, tmp_path):
    torchrun(2)
    with pytest.raises(UsageError, match="kd sweep is one process, and torchrun started 2"):
        run_sweep("tables/energy-table7", out=tmp_path)


def test_each_rank_has_its_device_and_its_part_of_the_threads(torchrun, monkeypatch):
    torchrun(2)
    assert (devices.local_rank(), devices.own_threads(recipe(threads=8).recipe.runtime)) == (0, 8)
    monkeypatch.setattr(Ranks, "current", classmethod(lambda cls: cls(1, 2)))
    section = recipe(threads=8, devices=2).recipe.runtime
    assert (devices.local_rank(), devices.own_threads(section)) == (1, 4)
    assert devices.own_threads(recipe(devices=2).recipe.runtime) is None
    assert devices.own_threads(recipe(threads=1, devices=2).recipe.runtime) == 1


@pytest.mark.parametrize(
    ("number", "error"), [(0, None), (signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)]
)
def test_all_ranks_stop_for_the_signal_that_one_has_had(number, error):
    stop = StopRequest("kd resume RUN", agree=lambda own: max(own, number))
    assert stop.received is None
    found = stop()
    assert found is None if error is None else isinstance(found, error)


def test_a_dry_run_of_several_devices_tries_one(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1}, raising=False)
    assert distill(devices=2, device="cpu", dry_run=True, out=tmp_path) is None
    assert not list(tmp_path.iterdir())
