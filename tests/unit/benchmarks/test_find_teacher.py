"""The study of find-teacher: who takes what, and what is said of it over seeds."""

from __future__ import annotations

import pytest

from benchmarks.find_teacher import RULES, Taken, mean_of, summary


def _taken(seed, rule, accuracy):
    return Taken("digits", seed, rule, 0.9, 0.1, 9, 4.0, accuracy, 1000)


def test_differences_are_paired_by_seed():
    taken = [
        _taken(seed, rule, 0.8 + 0.05 * seed - 0.01 * place)
        for seed in range(3)
        for place, rule in enumerate(RULES)
    ]
    found = summary(taken)
    assert found[RULES[2]]["accuracy"].value == pytest.approx(0.83)
    assert found[RULES[2]]["lead of probed"].value == pytest.approx(0.02)
    # every seed says the same of the difference, whatever they say of the accuracy
    assert found[RULES[2]]["lead of probed"].half == pytest.approx(0, abs=1e-12)
    assert found[RULES[2]]["accuracy"].half == pytest.approx(4.30265 * 0.05 / 3**0.5, rel=1e-5)


def test_one_seed_has_no_interval():
    assert mean_of([0.5]).half is None
