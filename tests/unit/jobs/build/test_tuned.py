"""What was measured on this machine decides what is left to be chosen: and nothing else does, such
as a measurement of another machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcli.engine import hardware
from kdcli.engine.events import EpochDone
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime, _OwnThreads
from kdcli.errors import Interrupted
from kdcli.files import sha256_file
from kdcli.jobs import doctor, resume, train_teacher, tune, tuning_checks
from kdcli.jobs.build import compiling, tuned
from kdcli.recipe.schema import RuntimeSection
from kdcli.results.tuning import TunedNetwork, TunedTeacher, Tuning, Way

SPEEDS = {
    ("fp32", "all", "channels_last"): 100.0,
    ("bf16", "all", "channels_last"): 90.0,
    ("fp32", "one", "channels_last"): 140.0,
    ("fp32", "all", "contiguous"): 80.0,
    ("bf16", "one", "channels_last"): 120.0,
    ("fp32", "one", "contiguous"): 150.0,
}


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hardware, "cpu_unit", lambda: "AVX512-BF16")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    _OwnThreads.lent = None  # or the next job of this process would get two
    torch.set_num_threads(before)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def network(name: str = "small", density: float = 100.0, macs: int = 10**6) -> TunedNetwork:
    ways = tuple(Way(*key, speed) for key, speed in SPEEDS.items())  # type: ignore[arg-type]
    return TunedNetwork(name, (3, 32, 32), density, macs, 64, ways)


def tuning(*networks: TunedNetwork) -> Tuning:
    answers = TunedTeacher("big", (3, 32, 32), 10.0, 20.0, 30.0, 10.0)
    measured = networks or (network(),)
    return Tuning("2026-11-27", tuned.this_machine(), measured, (answers,))


def settled(runtime: Runtime) -> tuple[str, int, bool, str]:
    return (
        runtime.precision_choice.value,
        runtime.threads,
        runtime.channels_last,
        runtime.teacher_choice.value,
    )


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ("fp32", 1, False, "bf16")),
        ({"precision": "bf16"}, ("bf16", 1, True, "bf16")),
        ({"channels_last": "on"}, ("fp32", 1, True, "bf16")),
        ({"threads": 2}, ("fp32", 2, True, "bf16")),
        ({"teacher_precision": "fp32", "threads": 2}, ("fp32", 2, True, "fp32")),
    ],
    ids=str,
)
def test_the_fastest_way_is_taken_within_what_the_recipe_says(
    asked: dict[str, object], expected: tuple[str, int, bool, str]
) -> None:
    section = RuntimeSection.model_validate(asked)
    runtime = Runtime(
        "cpu",
        precision=section.precision,
        teacher_precision=section.teacher_precision,
        channels_last=section.channels_last,
    )
    found = tuned.tune(runtime, section, tuning(), (90.0, 10**6), half=True)
    assert found is not None
    assert settled(runtime) == expected
    if not asked:
        assert "measured here on 2026-11-27" in runtime.precision_choice.reason
        assert "2.00 times as fast" in runtime.teacher_choice.reason
        runtime.look_ahead(None, 64)
        assert (runtime.ahead, runtime.teacher_rows) == (4, 256)
        # the next job of this process is not bound by it
        assert Runtime("cpu").threads == 2


@pytest.mark.usefixtures("two_threads")
def test_a_small_gain_changes_nothing_and_the_nearest_network_decides() -> None:
    ways = (Way("bf16", "all", "channels_last", 100.0), Way("fp32", "all", "channels_last", 104.0))
    heavy = replace(network("heavy", 300.0, 10**8), ways=ways)
    runtime = Runtime("cpu")
    section = RuntimeSection()
    found = tuned.tune(runtime, section, tuning(network(), heavy), (250.0, 4 * 10**7), half=True)
    assert found is not None
    assert (found.name, settled(runtime)[:3]) == ("heavy", ("bf16", 2, True))
    runtime = Runtime("cpu", precision="fp32")
    tuned.tune(runtime, section, tuning(network()), (250.0, 4 * 10**7), half=False)
    assert runtime.precision_choice.value == "fp32"


@pytest.mark.usefixtures("two_threads")
def test_a_file_of_another_machine_or_torch_is_not_used_and_said(cache: Path) -> None:
    assert tuned.read_tuning() == (None, "")
    here = tuning()
    tuned.write_tuning(here)
    assert tuned.read_tuning() == (here, "")
    for change, word in (
        ({"processor": "Another 9000"}, "another processor (Another 9000"),
        ({"torch": "1.0"}, "another torch (1.0"),
        ({"cores": 512}, "another number of cores (512"),
        ({"unit": "AMX"}, "another unit for bf16 (AMX"),
    ):
        tuned.write_tuning(replace(here, machine=replace(here.machine, **change)))
        found, said = tuned.read_tuning()
        assert found is None
        assert word in said
        assert "it is not used" in said
        check = next(check for check in doctor() if check.name == "tuned")
        assert (check.ok, check.detail) == (None, said)
    assert (cache / "tuning.json").is_file()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    "change",
    [
        {"networks": []},
        {"networks": 7},
        {"date": "x" * 10_000},
        {"large": -1},
        {"networks": [asdict(replace(network(), density=0.0))]},
        {"networks": [asdict(replace(network(), macs=-5))]},
        {"networks": [asdict(network())] * 1000},
        {"teachers": [{"name": "big"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_damaged_file_is_not_believed(cache: Path, change: dict[str, object]) -> None:
    file = tuned.write_tuning(tuning())
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    found, said = tuned.read_tuning()
    assert found is None
    assert "it is not used" in said
    file.write_text("{")
    assert tuned.read_tuning()[0] is None
    assert cache.is_dir()


def test_compiling_is_chosen_by_what_it_gained_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_lacking", lambda _: "")
    runtime = Runtime("cpu")

    def chosen(compiled: float, steps: int) -> Choice:
        like = replace(network(), compiled=compiled, compile_seconds=32.0)
        return compiling.choose("auto", runtime, steps, tmp_path / "seen", (like, "2026-11-27"))

    # 64 images take 0.64 s plain and 0.32 s compiled: a hundred steps repay 32 seconds
    assert chosen(200.0, 100).value == "on"
    assert chosen(200.0, 99).value == "off"
    assert "measured here on 2026-11-27, 2.00 times as fast" in chosen(200.0, 99).reason
    assert chosen(101.0, 10**9).value == "off"


@pytest.mark.usefixtures("two_threads", "cache")
def test_a_run_writes_down_what_it_chose_and_goes_on_with_it(tmp_path: Path) -> None:
    """To the same bits, although another measurement has come since."""
    tuned.write_tuning(tuning())
    overrides = {"data.train_limit": 64, "report.html": False, "report.latency": False}
    arguments: dict[str, Any] = {
        "out": tmp_path,
        "overrides": overrides,
        "epochs": 2,
        "model": "mlp",
    }

    def stop(event: object) -> None:
        if isinstance(event, EpochDone):
            raise Interrupted("stop")

    whole = train_teacher(name="whole", **arguments)
    assert whole is not None
    with pytest.raises(Interrupted):
        train_teacher(name="stopped", listeners=[stop], **arguments)
    written = json.loads((tmp_path / "stopped" / "environment.json").read_text())
    assert (written["precision"], written["threads"]) == ("fp32", 1)
    assert not written["channels_last"]
    assert "measured here on 2026-11-27" in written["threads_reason"]
    slow = tuple(Way("bf16", "all", "channels_last", speed) for speed in (1.0,))
    tuned.write_tuning(tuning(replace(network(), ways=slow)))
    again = resume(tmp_path / "stopped")
    assert sha256_file(Path(again.checkpoint)) == sha256_file(Path(whole.checkpoint))


@pytest.mark.usefixtures("cache")
def test_measuring_keeps_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcli.jobs.tuning._SECONDS", 0.001)
    monkeypatch.setattr("kdcli.jobs.tuning._COMPILED", ())
    heard: list[str] = []
    found = tune(
        5.0,
        networks={"mlp": (1, 8, 8)},
        teachers={"mlp": (1, 8, 8)},
        told=heard.append,
    )
    assert heard == ["mlp", "mlp as a teacher"]
    assert tuned.read_tuning() == (found, "")
    (way, *_) = found.networks[0].ways
    assert way.images_per_second > 0
    first, second = tuning_checks(found)
    assert "images/s in" in first.detail
    assert "256 at once" in second.detail
