"""Difference of logit correlation matrices: against loops, what it does not depend on, missing and
constant classes, refusals.
"""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from kdcli.analysis import correlation_difference as module
from kdcli.analysis.correlation_difference import correlation_difference
from kdcli.errors import BadData, Incompatible, UsageError
from tests.unit.analysis.test_correlation import pearson_by_hand
from tests.unit.analysis.test_rescaling import draw, flat, spoiled

N, K = 48, 5
Y = torch.arange(N) % K
FORMS = [(of, standardised) for of in ("class_mean", "pearson") for standardised in (False, True)]


@pytest.fixture(scope="module")
def pair():
    return draw(N, K), draw(N, K, seed=1)


def prepared(logits, standardised):
    rows = []
    for row in logits.tolist():
        mean = sum(row) / K
        spread = (
            math.sqrt(sum((value - mean) ** 2 for value in row) / (K - 1)) if standardised else 1.0
        )
        rows.append([(value - mean) / spread for value in row])
    return rows


def by_hand(logits, of, standardised):
    rows = prepared(logits, standardised)
    if of == "pearson":
        columns = list(zip(*rows, strict=True))
        return [[pearson_by_hand(a, b) for b in columns] for a in columns]
    members = [
        [row for row, label in zip(rows, Y.tolist(), strict=True) if label == c] for c in range(K)
    ]
    return [[sum(row[k] for row in group) / len(group) for k in range(K)] for group in members]


@pytest.mark.parametrize(("of", "standardised"), FORMS)
def test_matrices_and_their_difference_are_their_definitions(pair, of, standardised, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 11)
    found = correlation_difference(*pair, Y, of=of, standardised=standardised)
    student, teacher = (by_hand(logits, of, standardised) for logits in pair)
    assert flat(found.student) == pytest.approx(flat(student), abs=1e-9)
    assert flat(found.teacher) == pytest.approx(flat(teacher), abs=1e-9)
    difference = [abs(t - s) for t, s in zip(flat(teacher), flat(student), strict=True)]
    assert flat(found.difference) == pytest.approx(difference, abs=1e-9)
    assert found.mean == pytest.approx(sum(difference) / K**2, abs=1e-9)
    assert found.largest == pytest.approx(max(difference), abs=1e-9)
    assert found.difference[found.place[0]][found.place[1]] == pytest.approx(found.largest)
    assert (found.of, found.standardised, found.n, found.missing) == (of, standardised, N, ())


@pytest.mark.parametrize(("of", "standardised"), FORMS)
def test_shifts_and_orders_change_nothing(pair, of, standardised):
    z, v = pair
    whole = correlation_difference(z, v, Y, of=of, standardised=standardised)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    for other in (
        correlation_difference(
            z + draw(N, 1, seed=5), v - draw(N, 1, seed=6), Y, of=of, standardised=standardised
        ),
        correlation_difference(z[order], v[order], Y[order], of=of, standardised=standardised),
        correlation_difference(v, z, Y, of=of, standardised=standardised),
    ):
        assert flat(other.difference) == pytest.approx(flat(whole.difference), abs=1e-9)
    classes = torch.tensor([3, 0, 4, 2, 1])
    renamed = correlation_difference(
        z[:, classes], v[:, classes], classes.argsort()[Y], of=of, standardised=standardised
    )
    expected = torch.tensor(whole.teacher)[classes][:, classes]
    assert flat(renamed.teacher) == pytest.approx(expected.flatten().tolist(), abs=1e-6)
    assert (renamed.mean, renamed.largest) == pytest.approx((whole.mean, whole.largest))


@pytest.mark.parametrize(("of", "standardised"), FORMS)
def test_scale_is_seen_by_raw_class_means_alone(pair, of, standardised):
    z, _ = pair
    sample_scales = draw(N, 1, seed=4).exp()
    found = correlation_difference(z, 3 * z, Y, of=of, standardised=standardised)
    if of == "class_mean" and not standardised:
        assert flat(found.difference) == pytest.approx([2 * abs(x) for x in flat(found.student)])
    else:
        assert found.largest == pytest.approx(0, abs=1e-12)
    if standardised:
        assert correlation_difference(
            z, sample_scales * z, Y, of=of, standardised=True
        ).largest == pytest.approx(0, abs=1e-12)


def test_a_class_without_samples_is_named_and_left_out_of_the_mean(pair):
    z, v = pair
    there = Y != 2
    found = correlation_difference(z[there], v[there], Y[there])
    assert found.missing == (2,)
    assert found.teacher[2] == (0.0,) * K
    rows = [row for c, row in enumerate(found.difference) if c != 2]
    assert found.mean == pytest.approx(sum(map(sum, rows)) / (K * (K - 1)))
    assert correlation_difference(z[there], v[there], Y[there], of="pearson").missing == ()


def test_a_class_with_constant_logits_correlates_with_none():
    z, v = draw(N, K), draw(N, K, seed=1)
    z = z - z.mean(dim=1, keepdim=True)
    z[:, 0] = 0.1  # centring leaves it, up to rounding, where the others sum to -0.1
    z[:, 1] -= z.sum(dim=1)
    found = correlation_difference(z, v, Y, of="pearson")
    assert found.student[0] == (0.0,) * K
    assert [row[0] for row in found.student] == [0.0] * K
    assert found.student[1][1] == pytest.approx(1.0)
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_without_matrices_the_numbers_stay(pair):
    whole, bare = correlation_difference(*pair, Y), correlation_difference(*pair, Y, matrices=False)
    assert (bare.teacher, bare.student, bare.difference) == (None, None, None)
    assert dataclasses.replace(bare, teacher=whole.teacher, student=whole.student) == whole


def test_two_classes_have_class_means_and_no_correlations():
    z, v, y = draw(N, 2), draw(N, 2, seed=1), Y % 2
    assert correlation_difference(z, v, y).largest > 0
    for more in ({"of": "pearson"}, {"standardised": True}):
        with pytest.raises(
            Incompatible,
            match="the student has 2 classes, and this comparison of classes needs at least 3",
        ):
            correlation_difference(z, v, y, **more)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"z": draw(N, K + 1)},
            Incompatible,
            r"small has logits of shape \[48, 6\], big of shape \[48, 5\]",
        ),
        (
            {"z": spoiled(draw(N, K))},
            BadData,
            "small are not finite for 1 of 48 samples, first for sample 3",
        ),
        ({"v": torch.ones(N, K)}, BadData, "big are constant"),
        ({"of": "cosine"}, UsageError, "must be of"),
    ],
)
def test_what_is_refused(pair, change, error, words):
    arguments = {"z": pair[0], "v": pair[1], "targets": Y, "student": "small", "teacher": "big"}
    with pytest.raises(error, match=words):
        correlation_difference(**(arguments | change))
