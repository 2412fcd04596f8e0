"""The last lines of a run that never saw a class say how it fares on it."""

from __future__ import annotations

import pytest

from kdcli import formatting
from kdcli.results.intervals import Interval
from kdcli.results.measures import Excluded, ExcludedClass
from tests.cli.conftest import prepared, result, training


def missing(*names: str, teacher: float | None = 0.944) -> Excluded:
    each = tuple(
        ExcludedClass(name, number, 36, 0.639, Interval(0.476, 0.775), teacher)
        for number, name in enumerate(names)
    )
    return Excluded(each, 36 * len(names), 0.5, Interval(0.4, 0.6), teacher)


@pytest.mark.parametrize(
    ("command", "excluded", "lines"),
    [
        (
            "distill",
            missing("7"),
            ["missing class 7: accuracy 63.9 % (47.6–77.5, n = 36) · teacher 94.4 %"],
        ),
        (
            "train-teacher",
            missing("7", teacher=None),
            ["missing class 7: accuracy 63.9 % (47.6–77.5, n = 36)"],
        ),
        (
            "train-teacher",
            missing("7"),
            ["missing class 7: accuracy 63.9 % (47.6–77.5, n = 36) · reference 94.4 %"],
        ),
        (
            "distill",
            missing("cat", "owl"),
            ["missing class cat: accuracy 63.9 %", "missing class owl: accuracy 63.9 %"],
        ),
        (
            "distill",
            missing(*"abcdefg"),
            ["missing 7 classes: accuracy 50.0 % (40.0–60.0, n = 252) · teacher 94.4 %"],
        ),
        (
            "distill",
            Excluded((ExcludedClass("7", 7, 0, None, None),), 0, None, None),
            ["missing class 7: no test image shows it"],
        ),
        ("distill", None, []),
    ],
)
def test_the_end_of_a_run_shows_the_missing_class(kd, pretend, command, excluded, lines):
    pretend(
        command.replace("-", "_"),
        result(command, excluded=excluded),
        [prepared(command, epochs=1), *training(1)],
    )
    shown = [
        line
        for line in kd(command).out.replace(formatting.NBSP, " ").splitlines()
        if "missing" in line
    ]
    assert len(shown) == len(lines)
    assert all(
        line.strip().startswith(expected) for line, expected in zip(shown, lines, strict=True)
    )
