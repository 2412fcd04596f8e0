"""What networks cost, as `kd evaluate --latency`, reports and tables show it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from kdcli.files import read_json
from kdcli.jobs import evaluate, train_teacher
from kdcli.jobs.measure import costs
from kdcli.report.findings.costs import gain
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
