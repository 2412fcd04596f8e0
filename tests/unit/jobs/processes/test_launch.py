"""Ranks as processes: what they say to each other, what the launcher makes of one that fails, and
that the numbers are those of one.
"""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdcli.errors import Exit, KdError, RankLost
from kdcli.files import read_json
from kdcli.jobs import train_teacher
from kdcli.jobs.events import EpochDone, Prepared, StateSaved, StepDone
from kdcli.jobs.processes.devices import shared
from kdcli.jobs.processes.launch import start
from kdcli.recipe.schema import RuntimeSection
from tests.unit.jobs.processes import rank_tasks

TWO = RuntimeSection(device="cpu", devices=2)

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")


def children() -> set[str]:
    """Processes that this one has started and that are still there, but for Python's own tracker of
    shared memory.
    """
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = next(
                line for line in status.read_text().splitlines() if line.startswith("PPid:")
            ).split()[1]
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if parent == str(os.getpid()) and "resource_tracker" not in command:
            found.add(status.parent.name)
    return found


@pytest.fixture(scope="module")
def found():
    made = shared(TWO, rank_tasks.talk, {}, [print])
    assert not children()
    return made


def test_what_ranks_say_to_each_other(found):
    assert (found["size"], found["heard"], found["threads"]) == (2, 1, 1)
    assert found["gathered"] == [0, 1, 2, 10, 11]
    assert (found["total"], found["most"], found["every"]) == (3.0, 7, ["rank 0", "rank 1"])
    assert (found["made"], found["refused"]) == ("by 0", "cannot write (elsewhere)")
    assert found["state"] == ["other", "rank1.other", "same"]
    assert found["restored"] == [[0, 0], [1, 1]]
    assert found["alike"][0] == found["alike"][1]


@pytest.mark.parametrize("network", ["resnet8", "vit-mini"])
def test_ranks_share_a_teacher_and_each_holds_a_part(found, network):
    for rank in found["shared"]:
        # to the bit, in training and where the first rank asks alone
        assert rank[network] == [True, True, True]
        assert 0.45 < rank[f"{network} held"] < 0.6
        assert rank[f"{network} head"]  # methods read it
        assert rank["odd"] == (
            "Odd cannot be sharded: it reads weights of a layer that it does not call"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "how", "message"),
    [
        ((1,), "known", "rank 1 of 2: odd"),
        ((1,), "unforeseen", "rank 1 of 2: ValueError: odd"),
        ((0,), "unforeseen", "rank 0 of 2: ValueError: odd"),
        ((0, 1), "known", "odd"),  # what all say needs no name
        ((1,), "killed", "rank 1 of 2 was killed by SIGKILL"),
        ((0,), "killed", "rank 0 of 2 was killed by SIGKILL"),
    ],
)
def test_a_rank_that_fails_is_named_and_takes_the_others_along(who, how, message):
    with pytest.raises(KdError) as found:
        shared(TWO, rank_tasks.fail, {"who": who, "how": how}, ())
    assert found.value.message == message
    assert found.value.exit_code == Exit.FAILURE
    assert isinstance(found.value, RankLost) == (how == "killed")
    if how == "known":
        assert found.value.hint == "try again"
    if how == "unforeseen":
        assert 'raise KdError("odd"' in "".join(traceback.format_exception(found.value))
    assert not children()


@pytest.mark.slow
def test_a_rank_that_hangs_when_another_has_died_is_killed(monkeypatch):
    monkeypatch.setattr("kdcli.jobs.processes.launch._GRACE_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(KdError, match="rank 1 of 3: odd"):
        start(TWO.model_copy(update={"devices": 3}), rank_tasks.fail_and_hang, {}, ())
    assert time.monotonic() - began < 60
    assert not children()


# ---- whole runs ----------------------------------------------------------------------------------

PLAIN = {
    "train.epochs": 1,
    "runtime.precision": "fp32",
    "report.html": False,
    "report.latency": False,
    "data.val_fraction": 0.1,
    "runtime.compile": "off",
}


def difference(one: Path, other: Path) -> float:
    """The largest difference between two checkpoints, beside the largest weight of each tensor."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return max(
        float((a[name] - b[name]).abs().max() / a[name].abs().max().clamp_min(1e-3)) for name in a
    )


def test_two_ranks_of_half_a_minibatch_are_one_of_a_whole(tmp_path):
    """1293 images: the last minibatch has 13, which two ranks cannot share evenly."""
    heard = []
    one = train_teacher(
        model="mlp", data="digits", device="cpu", name="one", out=tmp_path, overrides=PLAIN
    )
    two = train_teacher(
        model="mlp",
        data="digits",
        device="cpu",
        devices=2,
        name="two",
        out=tmp_path,
        listeners=[heard.append],
        overrides=PLAIN,
    )
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-5
    assert two.train_accuracy == one.train_accuracy  # every image was counted, and once
    assert two.test.accuracy == one.test.accuracy
    assert two.recipe_sha256 == one.recipe_sha256
    assert sorted(
        path.name for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()
    ) == ["one", "two"]
    assert read_json(tmp_path / "two" / "environment.json")["devices"] == 2
    assert "devices = 2" in (tmp_path / "two" / "recipe.toml").read_text()
    (prepared,) = [event for event in heard if isinstance(event, Prepared)]
    (epoch,) = [event for event in heard if isinstance(event, EpochDone)]
    assert prepared.devices == 2
    assert epoch.val is not None
    assert any(isinstance(event, StepDone) for event in heard)
    assert not any(isinstance(event, StateSaved) and event.stopping for event in heard)
    assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) == len(
        (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    )
    assert not children()
