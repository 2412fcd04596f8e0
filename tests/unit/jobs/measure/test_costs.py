"""What networks cost, as `kd evaluate --latency`, reports and tables show it."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kdcli.errors import UsageError
from kdcli.files import read_json
from kdcli.jobs import evaluate, load_network, train_teacher
from kdcli.jobs.measure import costs
from kdcli.jobs.measure import forms as ways
from kdcli.jobs.train import run as train_run
from kdcli.report.findings.costs import conditions, gain, rows_of
from kdcli.report.page.run_sections import sections
from kdcli.report.tables.metrics import value
from kdcli.results.cost import Cost, Latency
from kdcli.results.intervals import Estimate
from kdcli.runs.read import Run
from tests.unit.jobs.conftest import QUICK


class Sleeper(torch.nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.seen = seconds, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((tuple(x.shape), self.training))
        time.sleep(self.seconds)
        return x


def test_a_latency_is_the_median_of_its_passes_with_quartiles():
    found = costs.latency(Sleeper(0.002), torch.zeros(1, 3, 4, 4), 32)
    assert 0.002 <= found.seconds.low <= found.seconds.value <= found.seconds.high < 0.1
    assert (found.batch, found.form, found.device) == (32, "eager", "cpu")
    assert found.threads == torch.get_num_threads()


def test_the_batch_is_as_large_as_said_and_the_network_as_it_is_used():
    network = Sleeper(0.0).train()
    found = costs.latency(network, torch.zeros(1, 3, 4, 4), 32)
    assert set(network.seen) == {((32, 3, 4, 4), False)}
    assert (found.repeats, len(network.seen)) == (costs.REPEATS, costs.REPEATS + costs.WARM_UP)
    assert network.training, "its mode is put back"


def test_a_slow_network_is_measured_less_often(monkeypatch):
    monkeypatch.setattr(costs, "SECONDS", 0.02)
    network = Sleeper(0.015)
    found = costs.latency(network, torch.zeros(1, 1, 2, 2), 1)
    assert found.repeats == costs.LEAST
    assert len(network.seen) <= costs.LEAST + 2


def test_a_run_says_what_network_and_teacher_cost(trained):
    run = trained.kd
    file = trained.out / "kd" / "model.safetensors"
    assert run.cost.size_bytes == file.stat().st_size
    assert (run.cost.parameters, run.cost.macs) == (run.parameters, 64 * 12 + 12 * 10)
    assert [each.batch for each in run.cost.latencies] == [1, 32]
    (teacher,) = run.teachers
    assert teacher.cost.size_bytes == (trained.out / "teacher" / "model.safetensors").stat().st_size
    assert teacher.cost.parameters == teacher.parameters
    assert value(run, "cost.latency_1_ms") == 1000 * run.cost.latency(1).seconds.value
    assert value(run, "teacher.cost.macs") == teacher.cost.macs


def test_the_first_section_of_the_report_holds_them_side_by_side(trained):
    first = sections(Run.load(trained.out / "kd"))[0]
    assert (first.key, first.title) == ("costs", "What was gained")
    (grid,) = first.grids
    assert [row[0] for row in grid.rows] == [
        "size on disk", "parameters", "multiply-adds", "1 image, ms", "32 images, ms",
    ]  # fmt: skip
    assert grid.columns[-1] == "teacher / student"
    assert "thread" in grid.caption
    assert "×" in first.text[0]


def test_latencies_are_left_out_where_they_are_not_wanted(tmp_path):
    run = train_teacher(
        model="mlp", data="digits", out=tmp_path, overrides={**QUICK, "report.latency": False}
    )
    assert run.cost.latencies == ()
    assert run.cost.macs
    assert read_json(Path(run.run) / "summary.json")["cost"]["latencies"] == []


def test_a_network_that_cannot_be_timed_costs_no_run(tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("one image is too few")

    monkeypatch.setattr(costs, "latency", broken)
    run = train_teacher(model="mlp", data="digits", out=tmp_path, overrides=QUICK)
    assert run.cost is None
    assert "what the networks cost is left out: ValueError: one image is too few" in run.warnings
    assert sections(Run.load(run.run))[0].key == "accuracy"


def test_evaluate_measures_the_teacher_of_a_run_beside_it(trained):
    alone = evaluate([trained.out / "kd"], latency=True).evaluations[0]
    assert alone.cost.latency(32) is not None
    (teacher,) = alone.teacher_costs.values()
    assert teacher.parameters == trained.teacher.parameters
    student, listed = evaluate(
        [trained.out / "kd", trained.out / "teacher"], latency=True
    ).evaluations
    assert list(student.teacher_costs.values()) == [listed.cost], "measured once"
    assert evaluate([trained.out / "kd"]).evaluations[0].cost is None


@contextmanager
def pretended(form, network, image):
    """A form that takes no seconds to make."""
    if form == "compiled":
        raise RuntimeError("no compiler\nhere")
    yield lambda images: images, image


def test_other_forms_are_timed_beside_it_and_one_that_fails_is_told_of(trained, monkeypatch):
    monkeypatch.setattr(ways, "in_form", pretended)
    monkeypatch.setattr("kdcli.jobs.measure.evaluate.check_forms", lambda _: None)
    found = evaluate([trained.out / "kd"], latency=True, forms=["onnx", "compiled"])
    own = found.evaluations[0].cost
    assert [(each.form, each.batch) for each in own.latencies] == [
        ("eager", 1), ("eager", 32), ("onnx", 1), ("onnx", 32),
    ]  # fmt: skip
    (teacher,) = found.evaluations[0].teacher_costs.values()
    assert teacher.latency(32, "onnx") is not None
    assert [sentence.split(" is not timed as ")[1] for sentence in found.warnings] == [
        "compiled: RuntimeError: no compiler",
    ] * 2
    names = [row.name for row in rows_of([own])]
    assert names[3:] == ["1 image, ms", "32 images, ms", "1 image, ONNX, ms", "32 images, ONNX, ms"]
    assert conditions(own)[0].endswith("(quartiles); ONNX by ONNX Runtime, float32, cpu.")


def test_a_run_times_the_forms_that_its_recipe_asks_for(tmp_path, monkeypatch):
    monkeypatch.setattr(ways, "in_form", pretended)
    monkeypatch.setattr(train_run, "check_forms", lambda _: None)
    run = train_teacher(
        model="mlp", data="digits", out=tmp_path,
        overrides={**QUICK, "report.forms": ["onnx", "compiled"]},
    )  # fmt: skip
    assert run.cost.latency(1, "onnx") is not None
    assert "the network is not timed as compiled: RuntimeError: no compiler" in run.warnings
    (grid,) = sections(Run.load(run.run))[0].grids
    assert grid.rows[-1][0] == "32 images, ONNX, ms"


def test_a_form_whose_package_is_missing_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="ONNX needs onnx, which is not installed"):
        train_teacher(
            model="mlp", data="digits", out=tmp_path, overrides={"report.forms": ["onnx"]}
        )
    assert list(tmp_path.iterdir()) == []


def test_an_exported_file_of_8_bit_integers_is_timed_where_it_lies(trained, tmp_path, monkeypatch):
    run = shutil.copytree(trained.out / "kd", tmp_path / "kd")
    (run / "model-int8.onnx").touch()
    asked = []
    monkeypatch.setattr(ways, "of_file", lambda path, image: (asked.append, image))
    own = evaluate([run], latency=True).evaluations[0].cost
    assert own.latency(32, "int8") is not None
    assert asked[-1].shape == (32, 1, 8, 8)
    assert (
        evaluate([trained.out / "kd"], latency=True).evaluations[0].cost.latency(1, "int8") is None
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "compiled"])
def test_the_forms_themselves(trained, form):
    if form == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package, reason="an extra, kdcli[onnx]")
    elif shutil.which("g++") is None:
        pytest.skip("no C++ compiler here")
    network = load_network(trained.out / "kd").network
    image = torch.rand(1, 1, 8, 8)
    with torch.no_grad(), ways.in_form(form, network, image) as (ask, given):
        answer = ask(given.repeat(2, 1, 1, 1))
        assert torch.allclose(answer, network(given.repeat(2, 1, 1, 1)).logits, atol=1e-5)


def price(parameters: int, seconds: float, size: int | None = None) -> Cost:
    timed = Latency("eager", 1, Estimate(seconds, seconds, seconds), 30, "cpu", 1)
    return Cost(parameters, 10 * parameters, size, (timed,))


@pytest.mark.parametrize(
    ("teacher", "student", "said"),
    [
        (price(800, 0.4, 4000), price(100, 0.1, 1000), "4.0× smaller on disk, 8.0× fewer multiply-adds, 4.0× faster on one image"),
        (price(800, 0.1), price(100, 0.2), "8.0× smaller, 8.0× fewer multiply-adds, 2.0× slower on one image"),
    ],
)  # fmt: skip
def test_what_was_gained_is_said_and_so_is_what_was_not(teacher, student, said):
    assert gain(teacher, student) == said
