"""CKA: against its definitions in loops, its invariances, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch

from kdcli.analysis.cka import MinibatchCka
from kdcli.errors import BadData, Incompatible, UsageError
from tests.unit.analysis.test_rescaling import draw, flat

N = 40


def related(n=N, first=6, second=9, seed=0):
    x = draw(n, first, seed=seed)
    return x, x @ draw(first, second, seed=seed + 1) + 2 * draw(n, second, seed=seed + 2)


def centred(x):
    return [
        [value - sum(column) / len(column) for value in column]
        for column in zip(*x.tolist(), strict=True)
    ]


def by_hand(x, y):
    """From inner products of centred columns."""

    def square(a, b):
        return sum(
            sum(s * t for s, t in zip(c, d, strict=True)) ** 2
            for c in centred(a)
            for d in centred(b)
        )

    return square(x, y) / math.sqrt(square(x, x) * square(y, y))


def hsic(x, y):
    """HSIC_1 as its paper prints it, with loops over samples."""
    n = len(x)
    k, m = (
        [[0.0 if i == j else (a[i] @ a[j]).item() for j in range(n)] for i in range(n)]
        for a in (x, y)
    )
    trace = sum(k[i][j] * m[j][i] for i in range(n) for j in range(n))
    sums = sum(map(sum, k)) * sum(map(sum, m))
    product = sum(k[i][j] * m[j][q] for i in range(n) for j in range(n) for q in range(n))
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * product / (n - 2)) / (n * (n - 3))


def streamed(x, y, *sizes):
    found = MinibatchCka(["a"], ["b"])
    for start, stop in pairwise([0, *torch.tensor(sizes).cumsum(0).tolist()]):
        found.update({"a": x[start:stop]}, {"b": y[start:stop]})
    return found.result()


@pytest.mark.parametrize(
    "constant", [torch.full((N, 3), 0.1), torch.full((N, 300), 0.1), torch.zeros(N, 3)]
)
def test_features_that_do_not_vary_are_like_nothing(constant):
    found = streamed(constant.double(), draw(N, 4), 20, 20)
    assert flat(found.values) == [0.0]
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_unrelated_features_look_alike_to_the_biased_definition_alone():
    x, y = draw(128, 60), draw(128, 60, seed=1)
    assert by_hand(x, y) > 0.25
    assert streamed(x, y, 64, 64).values[0][0] == pytest.approx(0, abs=0.06)


def test_minibatches_are_summed_as_their_definition_says():
    x, y = related(26)
    parts = [(x[:10], y[:10]), (x[10:20], y[10:20]), (x[20:], y[20:])]
    cross, own, other = (
        sum(len(pair[0]) * hsic(pair[i], pair[j]) for pair in parts)
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    found = streamed(x, y, 10, 10, 6)
    assert found.values[0][0] == pytest.approx(cross / math.sqrt(own * other), abs=1e-12)
    assert (found.n, found.batches, found.left_out) == (26, 3, 0)
    assert (
        found.student_taps,
        found.teacher_taps,
        found.student_dimensions,
        found.teacher_dimensions,
    ) == (("a",), ("b",), (6,), (9,))


def test_minibatches_see_no_rotation_scale_shift_or_order_inside_a_batch():
    x, y = related(24)
    turn, _ = torch.linalg.qr(draw(6, 6, seed=9))
    value = streamed(x, y, 12, 12).values[0][0]
    assert streamed(3 * x @ turn + 1, y - 7, 12, 12).values[0][0] == pytest.approx(value, abs=1e-12)
    assert streamed(x.flip(0), y.flip(0), 12, 12).values[0][0] == pytest.approx(value, abs=1e-12)
    assert streamed(x, 2 * x @ turn, 12, 12).values[0][0] == pytest.approx(1.0, abs=1e-12)
    assert streamed(x + 1e6, y, 12, 12).values[0][0] == pytest.approx(value, abs=1e-6)


def test_minibatches_estimate_what_all_samples_say():
    x, y = related(2048)
    found = streamed(x, y, *[64] * 32)
    a, b = (each - each.mean(dim=0) for each in (x, y))
    whole = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert found.values[0][0] == pytest.approx(whole.item(), abs=0.01)
    assert found.low[0][0] < whole < found.high[0][0]
    assert found.high[0][0] - found.low[0][0] < 0.05


def test_the_interval_is_the_jackknifes():
    x, y = related(30)
    found = streamed(x, y, 10, 10, 10)
    left = [
        streamed(torch.cat(a), torch.cat(b), 10, 10).values[0][0] for a, b in _without_one(x, y)
    ]
    error = math.sqrt(2 / 3 * sum((value - sum(left) / 3) ** 2 for value in left))
    assert found.high[0][0] == pytest.approx(
        min(1.0, found.values[0][0] + 1.959964 * error), abs=1e-6
    )
    assert found.low[0][0] == pytest.approx(found.values[0][0] - 1.959964 * error, abs=1e-6)
    assert streamed(x, y, 30).low is None


def _without_one(x, y):
    x, y = x.split(10), y.split(10)
    return [
        ([x[j] for j in range(3) if j != i], [y[j] for j in range(3) if j != i]) for i in range(3)
    ]


def test_stages_form_a_matrix_of_pairs_and_maps_are_flattened():
    student = {"stage1": draw(N, 3, 2, 2), "pooled": draw(N, 5, seed=1)}
    teacher = {
        "stem": draw(N, 4, seed=2),
        "stage1": draw(N, 2, 3, 3, seed=3),
        "pooled": draw(N, 5, seed=1) + 1,
    }
    passing = MinibatchCka(student, teacher)
    passing.update({**student, "unasked": draw(N, 2)}, teacher)
    streamed_values = passing.result()
    assert (streamed_values.student_dimensions, streamed_values.teacher_dimensions) == (
        (12, 5),
        (4, 18, 5),
    )
    for i, a in enumerate(student):
        for j, b in enumerate(teacher):
            alone = streamed(student[a].flatten(1), teacher[b].flatten(1), N).values[0][0]
            assert streamed_values.values[i][j] == pytest.approx(alone, abs=1e-12)


def test_half_precision_features_are_compared_in_double():
    x, y = (each.bfloat16() for each in related())
    assert flat(streamed(x, y, 40)) == flat(streamed(x.double(), y.double(), 40))


def test_batches_too_small_for_an_estimate_are_left_out_and_counted():
    x, y = related(23)
    found = streamed(x, y, 10, 10, 3)
    assert (found.n, found.batches, found.left_out) == (20, 2, 3)
    assert found.values == streamed(x[:20], y[:20], 10, 10).values
    with pytest.raises(BadData, match="batches of at least 4 samples, and there was none in 6"):
        streamed(x[:6], y[:6], 3, 3)


def spoiled(x, row):
    x = x.clone()
    x[row, -1] = math.inf
    return x


def test_what_minibatches_refuse():
    with pytest.raises(UsageError, match="no tap of the student"):
        MinibatchCka([], ["b"])
    found = MinibatchCka(["a"], ["b"])
    with pytest.raises(BadData, match="none in 0 samples"):
        found.result()
    with pytest.raises(Incompatible, match="the teacher gave no tap b"):
        found.update({"a": draw(8, 2)}, {"c": draw(8, 2)})
    with pytest.raises(
        Incompatible, match="tap a of the student has 8 samples, tap b of the teacher has 7"
    ):
        found.update({"a": draw(8, 2)}, {"b": draw(7, 2)})
    found.update({"a": draw(8, 2)}, {"b": draw(8, 3)})
    with pytest.raises(Incompatible, match="numbers a sample"):
        found.update({"a": draw(8, 2)}, {"b": draw(8, 4)})
    found.update({"a": draw(2, 2)}, {"b": draw(2, 3)})
    found.update({"a": draw(8, 2)}, {"b": spoiled(draw(8, 3), 5)})
    with pytest.raises(BadData, match="tap b of the teacher are not finite, first for sample 15"):
        found.result()
