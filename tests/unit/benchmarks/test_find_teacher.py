"""The study of find-teacher: who takes what, and what is said of it over seeds."""

from __future__ import annotations

import pytest

from benchmarks.find_teacher import RULES, Plan, Study, Taken, mean_of, summary

TEACHER = """
[data]
name = "digits"
[model]
name = "mlp"
[report]
html = false
latency = false
probe = 0
"""
STUDENT = """
[data]
name = "digits"
[student]
name = "mlp"
[teacher]
recipe = "teacher.toml"
[method]
name = "kd"
[train]
epochs = 2
[report]
html = false
latency = false
probe = 0
"""


def _taken(seed, rule, accuracy):
    return Taken("digits", seed, rule, "", 4.0, accuracy, 1.0)


def test_differences_are_paired_by_seed():
    taken = [
        _taken(seed, rule, 0.8 + 0.05 * seed - 0.01 * place)
        for seed in range(3)
        for place, rule in enumerate(RULES)
    ]
    found = summary(taken)
    assert found[RULES[2]]["accuracy"].value == pytest.approx(0.83)
    assert found[RULES[2]]["lead of find-teacher"].value == pytest.approx(0.02)
    # every seed says the same of the difference, whatever they say of the accuracy
    assert found[RULES[2]]["lead of find-teacher"].half == pytest.approx(0, abs=1e-12)
    assert found[RULES[2]]["accuracy"].half == pytest.approx(4.30265 * 0.05 / 3**0.5, rel=1e-5)


def test_one_seed_has_no_interval():
    assert mean_of([0.5]).half is None


@pytest.mark.slow
def test_each_rule_takes_its_teacher_of_a_pool_that_is_trained_to_the_end(tmp_path):
    (tmp_path / "teacher.toml").write_text(TEACHER)
    (tmp_path / "student.toml").write_text(STUDENT)
    plan = Plan(
        str(tmp_path / "student.toml"),
        str(tmp_path / "teacher.toml"),
        batches=(32,),
        smoothings=(0.0, 0.5),
        epochs=(1, 3),
        probe_epochs=1,
        trials=2,
        teacher_images=300,
        student_images=200,
    )
    taken, pool = Study("digits", plan, 0, tmp_path / "out").run()
    assert {(each.smoothing, each.epochs) for each in pool} == {
        (smoothing, epochs) for smoothing in (0.0, 0.5) for epochs in (1, 3)
    }
    by_rule = {each.rule: each for each in taken}
    assert by_rule.keys() == set(RULES)
    students = {
        f"batch_size 32, smoothing {each.smoothing}, {each.epochs} epochs": each for each in pool
    }
    for rule, number in {"most accurate": "accuracy", "most entropy": "entropy"}.items():
        found = students[by_rule[rule].teacher]
        assert getattr(found, number) == max(getattr(each, number) for each in pool)
        assert by_rule[rule].accuracy == found.student
    best = by_rule["best of the pool"].accuracy
    assert by_rule["any of the pool"].accuracy < best == max(each.student for each in pool)
    # smoothed answers have more entropy, and a rule pays for the whole pool
    assert "smoothing 0.5" in by_rule["most entropy"].teacher
    assert by_rule["probed pool"].cost > by_rule["most accurate"].cost > 0
    assert by_rule["find-teacher"].cost > 0
    # stopped and started again nothing is trained twice
    assert Study("digits", plan, 0, tmp_path / "out").run()[1] == pool
