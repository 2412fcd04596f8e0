"""The study of kd search: who trains what for how long, and what is said of it over seeds."""

from __future__ import annotations

import pytest

from benchmarks.search import RULES, Student, leads, students

TEACHER = """
[data]
name = "digits"
[model]
name = "cnn-large"
[train]
epochs = 1
[report]
html = false
latency = false
"""
STUDENT = """
[data]
name = "digits"
train_limit = 200
[student]
name = "cnn-small"
[teacher]
recipe = "teacher.toml"
[method]
name = "kd"
[train]
epochs = 1
[report]
html = false
latency = false
"""


def test_leads_are_paired_by_seed():
    found = [
        Student(rule, seed, "", 1, 1.0, 0.8 + 0.05 * seed - 0.01 * place)
        for seed in range(3)
        for place, rule in enumerate(RULES)
    ]
    assert leads(found).keys() == set(RULES[1:])
    assert leads(found)[RULES[2]].value == pytest.approx(0.02)
    assert leads(found)[RULES[2]].half == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_the_defaults_get_the_time_that_the_search_took(tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "teacher.toml").write_text(TEACHER)
    (tmp_path / "student.toml").write_text(STUDENT)
    recipe = str(tmp_path / "student.toml")

    def once():
        return students(recipe, 0, tmp_path / "out", trials=2, max_parameters=30_000)

    found = once()
    searched, short, longer, taken = found
    assert [each.rule for each in found] == list(RULES)
    assert short.epochs == searched.epochs == 1
    assert longer.epochs == taken.epochs
    assert longer.epochs == max(round(searched.seconds / short.seconds), 1)
    # stopped and started again nothing is trained twice
    assert once() == found
