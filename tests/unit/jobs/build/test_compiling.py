"""When networks are compiled: the rule, what it says, what it remembers, and that compiled training
is the same training.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import replace

import pytest
import torch

from kdcli.core.types import Batch
from kdcli.engine import hardware
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime
from kdcli.errors import UsageError
from kdcli.jobs import build_network, distill, train_teacher
from kdcli.jobs.build import compiling
from kdcli.runs.read import Run


@pytest.fixture
def runtime() -> Runtime:
    return Runtime("cpu", precision="fp32")


@pytest.mark.parametrize(
    ("steps", "warm", "expected"),
    [
        (compiling.COLD_STEPS - 1, False, "off"),
        (compiling.COLD_STEPS, False, "on"),
        (compiling.WARM_STEPS - 1, True, "off"),
        (compiling.WARM_STEPS, True, "on"),
    ],
)
def test_compiles_where_the_job_repays_it(runtime, tmp_path, monkeypatch, steps, warm, expected):
    monkeypatch.setattr(hardware, "cpu_unit", lambda: "AMX")
    seen = tmp_path / "folder" / "seen.json"
    if warm:
        compiling.mark(seen, Choice("on", ""))
    choice = compiling.choose("auto", runtime, steps, seen)
    assert choice.value == expected
    assert str(steps) in choice.reason
    assert str(compiling.WARM_STEPS if warm else compiling.COLD_STEPS) in choice.reason


@pytest.mark.parametrize("unit", ["AVX512-BF16", None])
def test_without_amx_nothing_is_compiled_unless_asked_for(runtime, tmp_path, monkeypatch, unit):
    monkeypatch.setattr(hardware, "cpu_unit", lambda: unit)
    assert (
        compiling.choose("auto", runtime, 10**6, tmp_path / "seen.json").reason
        == "auto: gains nothing on a CPU without AMX"
    )
    assert compiling.choose("on", runtime, 1, tmp_path / "seen.json").value == "on"


def test_only_what_was_compiled_is_remembered(tmp_path):
    compiling.mark(tmp_path / "seen.json", Choice("off", ""))
    assert not list(tmp_path.iterdir())


def test_the_time_of_compiling_is_that_of_the_last_time_or_of_other_networks(tmp_path):
    on, one, other = Choice("on", ""), tmp_path / "a" / "one.json", tmp_path / "a" / "other.json"
    assert compiling.expected_seconds(one) is None
    compiling.mark(one, on, 40.0)
    assert compiling.expected_seconds(one) == compiling.expected_seconds(other) == 40.0
    compiling.mark(one, on, 8.0)
    assert compiling.expected_seconds(one) == 8.0
    assert compiling.expected_seconds(other) == 40.0
    # another version of torch takes its own time, and what is damaged or lies tells nothing
    for text in ('{"torch": "0.1", "cold": 40.0}', "{", "[]", '{"torch": "0.1", "cold": 1e300}'):
        one.write_text(text)
        assert compiling.expected_seconds(other) is None
    one.write_text(f'{{"torch": "{torch.__version__}"}}')  # of an older kd
    assert compiling.expected_seconds(one) is compiling.expected_seconds(other) is None


def test_without_a_compiler_it_is_off_and_asking_for_it_is_a_mistake(
    runtime, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    choice = compiling.choose("auto", runtime, 10**6, tmp_path / "seen.json")
    assert (choice.value, choice.reason) == ("off", "auto: no C++ compiler here")
    with pytest.raises(UsageError, match="but this machine has no C"):
        compiling.choose("on", runtime, 10**6, tmp_path / "seen.json")


def test_compiled_code_runs_in_steps_of_the_usual_size_alone(runtime, monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch,
        "compile",
        lambda forward, **_: lambda *given: calls.append(len(given[0])) or forward(*given),
    )
    network = build_network("cnn-small", num_classes=10, input_shape=(1, 8, 8))
    holder = torch.nn.ModuleList([network])
    runtime.compile(Choice("on", "asked for"), holder, [], 4)
    index = torch.arange(4)
    batch = Batch(torch.zeros(4, 1, 8, 8), index, index, index)
    short = replace(batch, x=batch.x[:2], y=batch.y[:2])
    with runtime.stepping(batch):
        network(batch.x)
    with runtime.stepping(short):
        network(short.x)
    network(batch.x)  # as an evaluation does
    assert calls == [4]
    assert list(network.state_dict()) == list(
        build_network("cnn-small", num_classes=10, input_shape=(1, 8, 8)).state_dict()
    )


def test_a_process_compiles_as_many_networks_as_a_sweep_has(runtime, monkeypatch):
    graphs = []
    # dynamo alone, no code
    traced = functools.partial(
        torch.compile, backend=lambda graph, _: graphs.append(graph) or graph.forward
    )
    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    for side in range(4, 16):
        network = build_network("mlp", num_classes=10, input_shape=(1, side, side))
        runtime.compile(Choice("on", "asked for"), torch.nn.ModuleList([network]), [], 2)
        with runtime.stepping(
            Batch(
                torch.zeros(2, 1, side, side),
                torch.zeros(2, dtype=torch.int64),
                torch.arange(2),
                torch.zeros(2),
            )
        ):
            network(torch.rand(2, 1, side, side))
    assert len(graphs) == 12


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="compiles with g++")
def test_a_compiled_run_learns_what_the_usual_one_learns(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    common = {
        "data.name": "digits",
        "report.html": False,
        "runtime.precision": "fp32",
        "runtime.threads": 1,
    }
    teacher = train_teacher(
        model="cnn-large", epochs=2, out=tmp_path, name="teacher", overrides=common
    )
    accuracies, precise = {}, {}
    for choice in ("off", "on"):
        result = distill(
            teacher=teacher.run,
            student="cnn-small",
            method="kd",
            epochs=3,
            out=tmp_path,
            name=choice,
            overrides={**common, "runtime.compile": choice, "optim.lr": 0.01},
        )
        accuracies[choice], precise[choice] = result.test.accuracy, result.test.nll
        assert Run.load(tmp_path / choice).environment["compile"] == choice
    assert accuracies["on"] == pytest.approx(accuracies["off"], abs=0.03)
    assert precise["on"] == pytest.approx(precise["off"], abs=0.05)
    assert list((tmp_path / "cache" / "compiled").iterdir())  # the next choice knows
