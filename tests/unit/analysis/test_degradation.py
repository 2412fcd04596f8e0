"""The degradation curve: order, rows, the best place, whether it degrades, and what does not belong
on one curve.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kdcli.analysis.degradation import degradation
from kdcli.analysis.gap import Responses, compare
from kdcli.analysis.metrics import measure
from kdcli.errors import Incompatible, UsageError
from kdcli.losses import match_spread
from tests.unit.analysis.test_correlation import spearman_by_hand

N, K = 400, 4
Y = torch.arange(N) % K


def network(label, parameters, *, right=300, scale=3.0, aligned=False, seed=0):
    """A network that is right on the first so many samples."""
    logits = torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * 0.1
    logits[torch.arange(N), torch.where(torch.arange(N) < right, Y, (Y + 1) % K)] += scale
    like = match_spread(logits, like=2 * logits) if aligned else None
    return Responses(
        label, f"runs/{label}", "cnn", parameters, "kd", logits, like, measure(logits, Y)
    )


def report(teacher, *students, **more):
    settings = {
        "targets": Y,
        "class_names": tuple("abcd"),
        "data": "toy",
        "split": "test",
        "temperatures": (1.0, 4.0),
        "bootstrap": 20,
    }
    return compare(teacher, students, **(settings | more))


@pytest.fixture(scope="module")
def teachers():
    """One student, distilled from four teachers: better, then worse, the larger the teacher."""
    rights = {
        "resnet110": (1.7e6, 260),
        "resnet20": (0.27e6, 290),
        "resnet56": (0.85e6, 320),
        "resnet32": (0.46e6, 340),
    }
    return [
        report(
            network(label, int(size), right=380, seed=place),
            network(f"of {label}", 100_000, right=right, scale=2.0, seed=9),
        )
        for place, (label, (size, right)) in enumerate(rights.items())
    ]


def test_one_student_of_many_teachers_by_the_size_of_the_teacher(teachers):
    found = degradation(teachers, varies="teacher", temperature=4.0)
    assert [row.label for row in found.rows] == ["resnet20", "resnet32", "resnet56", "resnet110"]
    assert [row.capacity for row in found.rows] == [270_000, 460_000, 850_000, 1_700_000]
    assert [row.accuracy for row in found.rows] == pytest.approx(
        [290 / N, 340 / N, 320 / N, 260 / N]
    )
    assert [row.change for row in found.rows] == [
        None,
        *(pytest.approx(c / N) for c in (50, -20, -60)),
    ]
    assert (found.best, found.drop, found.degrades) == (1, pytest.approx(80 / N), True)
    assert found.rank_correlation == pytest.approx(
        spearman_by_hand([1, 2, 3, 4], [290, 340, 320, 260])
    )
    assert (found.varies, found.temperature) == ("teacher", 4.0)
    first = teachers[1]
    assert found.rows[0].entropy == first.pairs[0].at[1].entropy
    assert found.rows[0].free_energy == first.pairs[0].at[1].free_energy
    assert (found.rows[0].kl, found.rows[0].agreement) == (
        first.pairs[0].at[1].kl,
        first.pairs[0].agreement,
    )
    assert (found.rows[0].teacher_accuracy, found.rows[0].student_parameters) == (380 / N, 100_000)
    assert found.rows[0].accuracy_interval == first.students[0].measures.accuracy_interval


def test_many_students_of_one_teacher_by_the_size_of_the_student():
    teacher = network("big", 10_000, right=390)
    students = (
        network("c", 900, right=330, aligned=True),
        network("a", 100, right=250, aligned=True),
        network("b", 400, right=300),
    )
    found = degradation([report(teacher, *students)], varies="student")
    assert [(row.label, row.student_parameters, row.teacher_parameters) for row in found.rows] == [
        ("a", 100, 10_000),
        ("b", 400, 10_000),
        ("c", 900, 10_000),
    ]
    assert (found.best, found.drop, found.degrades, found.rank_correlation) == (
        2,
        0.0,
        False,
        pytest.approx(1.0),
    )


def test_a_drop_within_the_intervals_is_not_called_one():
    pairs = [
        report(network(f"t{size}", size), network("s", 10, right=right))
        for size, right in ((1, 301), (2, 299))
    ]
    found = degradation(pairs, varies="teacher")
    assert (found.best, found.drop, found.degrades) == (0, pytest.approx(2 / N), False)


def test_seeds_of_one_network_keep_their_rows_and_their_order():
    teacher = network("big", 1000, right=390)
    found = degradation(
        [report(teacher, *(network("s", 10, right=right) for right in (300, 280, 300)))],
        varies="student",
    )
    assert [row.accuracy for row in found.rows] == [300 / N, 280 / N, 300 / N]
    assert (found.best, found.drop, found.rank_correlation) == (0, 0.0, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 2.0}, "gap of of resnet110 was not analysed at temperature 2"),
        ({"reports": []}, "no gap report"),
    ],
)
def test_what_is_refused(teachers, change, words):
    with pytest.raises(UsageError, match=words):
        degradation(**({"reports": teachers, "varies": "teacher"} | change))


@pytest.mark.parametrize("other", [{"data": "cifar10"}, {"split": "val"}, {"n": 7}])
def test_gaps_on_different_data_make_no_curve(teachers, other):
    with pytest.raises(
        Incompatible, match="do not belong on one curve with those on the 400 samples of toy test"
    ):
        degradation([teachers[0], dataclasses.replace(teachers[1], **other)], varies="teacher")
