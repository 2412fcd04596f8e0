"""Gates: thresholds on a result alone, beside its teacher, beside another run, and by intervals."""

from __future__ import annotations

import pytest
import torch

from kdcli.analysis.metrics import measure
from kdcli.jobs.measure.gates import Held, check_gates, difference_interval, with_counts
from kdcli.recipe.schema import GatesSection
from kdcli.report.findings.run import gate_sentence
from kdcli.results.cost import Cost, Latency
from kdcli.results.intervals import Estimate
from kdcli.results.measures import Measures


def of(hits: int, n: int = 400) -> Measures:
    """Measures of a network that gets so many of n images right."""
    targets = torch.zeros(n, dtype=torch.int64)
    targets[1::2] = 1
    logits = torch.nn.functional.one_hot(targets, 2).float()
    logits[hits:] = 1 - logits[hits:]
    return measure(logits, targets)


TIMED = Cost(1000, None, None, (Latency("eager", 1, Estimate(0.004, 0.003, 0.006), 30, "cpu", 1),))
HELD = Held(
    of(380),
    by_class={"ant": (0.96, 200), "bee": (0.94, 200)},
    parameters=1000,
    cost=TIMED,
    teacher=of(384),
    release=of(379),
)


@pytest.mark.parametrize(
    ("gates", "value", "met"),
    [
        ({"min_accuracy": 0.95}, 0.95, True),
        ({"min_class_accuracy": 0.95}, 0.94, False),
        ({"min_class_accuracy": 0.94}, 0.94, True),
        ({"within": 1.0}, 1.0, True),
        ({"within": 0.9}, 1.0, False),
        ({"not_below": "runs/release"}, 0.95, True),
        ({"max_latency_ms": 5.0}, 4.0, True),
        ({"max_latency_ms": 3.9}, 4.0, False),
        ({"max_parameters": 1000}, 1000, True),
        ({"max_parameters": 999}, 1000, False),
    ],
)
def test_a_threshold_is_met_or_missed_by_the_number_that_it_names(gates, value, met):
    (gate,) = check_gates(GatesSection(**gates), HELD)
    assert gate.value == pytest.approx(value)
    assert gate.passed is met
    assert not gate.confident
    assert "asked for" in gate_sentence(gate)


@pytest.mark.parametrize(
    "gates",
    [
        {"min_accuracy": 0.95},
        {"min_class_accuracy": 0.94},
        {"within": 1.0},
        {"not_below": "runs/release"},
        {"max_latency_ms": 5.0},
    ],
)
def test_where_confidence_is_asked_for_the_interval_decides(gates):
    (plain,) = check_gates(GatesSection(**gates), HELD)
    (sure,) = check_gates(GatesSection(**gates, confident=True), HELD)
    assert plain.passed
    assert not sure.passed
    assert sure.confident
    assert "at 95 % confidence" in gate_sentence(sure)
    assert check_gates(GatesSection(min_accuracy=0.92, confident=True), HELD)[0].passed


def test_what_was_not_measured_is_missed():
    bare = Held(of(380))
    for gates in ({"within": 5.0}, {"max_latency_ms": 5.0}, {"min_class_accuracy": 0.1}):
        (gate,) = check_gates(GatesSection(**gates), bare)
        assert gate.value is None
        assert not gate.passed


def test_the_interval_of_a_difference_is_newcombes():
    # 56 of 70 against 48 of 80: his table II, (a), method 10
    found = difference_interval(of(56, 70), of(48, 80))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_classes_come_with_their_counts():
    targets = torch.tensor([0, 0, 2, 2, 2])
    assert with_counts({"a": 0.5, "c": 1.0}, targets) == {"a": (0.5, 2), "c": (1.0, 3)}
