"""Gradient rescaling and distance ranks: against autograd and loops, what they do not depend on,
and what is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch.nn import functional

from kdcli import losses
from kdcli.analysis import rescaling as module
from kdcli.analysis.rescaling import distance_ranks, rescaling
from kdcli.errors import BadData, Incompatible, UsageError
from tests.unit.analysis.test_correlation import pearson_by_hand, spearman_by_hand

N, K, D = 60, 5, 4
Y = torch.arange(N) % K


def draw(*shape, seed=0, scale=2.0):
    return (
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * scale
    )


@pytest.fixture(scope="module")
def pair():
    hit = 2 * functional.one_hot(Y, K)
    return draw(N, K) + hit, draw(N, K, seed=1) + 2 * hit


def gradient(z, v, y, *, temperature, weight=0.9, ce_weight=None, t_squared=True):
    """n dL/dz of kd's loss, [n,K]."""
    z = z.double().clone().requires_grad_()
    ce_weight = 1 - weight if ce_weight is None else ce_weight
    soft = losses.kd(z, v.double(), temperature=temperature) / (1 if t_squared else temperature**2)
    loss = ce_weight * losses.cross_entropy(z, y) + weight * soft
    return len(z) * torch.autograd.grad(loss, z)[0]


def of_kd(z, v, y, *, temperature, bins=20, bootstrap=1000, **weights):
    """The factors of kd's loss."""
    slopes = gradient(z, v, y, temperature=temperature, **weights).gather(1, y[:, None])[:, 0]
    return rescaling(z, v, y, slopes, temperature=temperature, bins=bins, bootstrap=bootstrap)


def softmax(row, temperature):
    top = max(row)
    shares = [math.exp((value - top) / temperature) for value in row]
    return [share / sum(shares) for share in shares]


def by_hand(z, v, y, temperature, weight, ce_weight, exponent):
    """w_t and q_t of one sample from the formula."""
    p1, p, q = softmax(z, 1.0), softmax(z, temperature), softmax(v, temperature)
    return (ce_weight * (p1[y] - 1) + weight * temperature**exponent * (p[y] - q[y])) / (
        p1[y] - 1
    ), q[y]


@pytest.mark.parametrize("t_squared", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_every_number_is_its_definition(pair, temperature, t_squared):
    found = of_kd(*pair, Y, temperature=temperature, weight=0.7, t_squared=t_squared, bootstrap=50)
    rows = zip(*(x.tolist() for x in (*pair, Y)), strict=True)
    w, q = zip(
        *(by_hand(*row, temperature, 0.7, 0.3, 1 if t_squared else -1) for row in rows), strict=True
    )
    assert (found.n, found.dropped) == (N, 0)
    assert found.mean == pytest.approx(sum(w) / N, abs=1e-9)
    assert found.median == pytest.approx(sum(sorted(w)[N // 2 - 1 : N // 2 + 1]) / 2, abs=1e-9)
    assert found.negative == sum(value < 0 for value in w) / N
    assert found.pearson.value == pytest.approx(pearson_by_hand(w, q), abs=1e-9)
    assert found.spearman.value == pytest.approx(spearman_by_hand(w, q), abs=1e-9)
    assert found.pearson.low < found.pearson.value < found.pearson.high
    assert (found.low, found.high) == pytest.approx(
        (min(w) * 0.41 + sorted(w)[1] * 0.59, max(w) * 0.41 + sorted(w)[-2] * 0.59)
    )


@pytest.mark.parametrize("t_squared", [True, False])
def test_the_factor_is_also_the_ratio_of_what_the_wrong_classes_get(pair, t_squared):
    """As in Prop. 2: both gradients sum to 0."""
    both = gradient(*pair, Y, temperature=3.0, weight=0.8, t_squared=t_squared)
    plain = gradient(*pair, Y, temperature=3.0, weight=0.0)
    wrong = functional.one_hot(Y, K) == 0
    found = of_kd(*pair, Y, temperature=3.0, weight=0.8, t_squared=t_squared, bootstrap=1)
    ratio = (both * wrong).sum(1) / (plain * wrong).sum(1)
    assert found.mean == pytest.approx(ratio.mean().item())
    assert found.median == pytest.approx(ratio.quantile(0.5).item())


def test_a_student_that_answers_as_its_teacher_keeps_the_cross_entropy_gradient(pair):
    found = of_kd(pair[0], pair[0], Y, temperature=4.0, weight=0.9, bootstrap=10)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.pearson is None
    assert found.spearman is None


def test_correlations_depend_neither_on_the_weights_nor_on_the_factor(pair):
    first = of_kd(*pair, Y, temperature=4.0, weight=0.9, bootstrap=30)
    for other in (
        of_kd(*pair, Y, temperature=4.0, weight=0.2, bootstrap=30),
        of_kd(*pair, Y, temperature=4.0, weight=2.0, t_squared=False, bootstrap=30),
        of_kd(*pair, Y, temperature=4.0, weight=1.0, ce_weight=1.0, bootstrap=30),
    ):
        assert dataclasses.astuple(other.pearson) == pytest.approx(
            dataclasses.astuple(first.pearson), abs=1e-9
        )
        assert dataclasses.astuple(other.spearman) == pytest.approx(
            dataclasses.astuple(first.spearman), abs=1e-9
        )
        assert other.mean != pytest.approx(first.mean)


def test_shifts_and_orders_change_nothing(pair, monkeypatch):
    z, v = pair
    whole = of_kd(z, v, Y, temperature=2.0, bootstrap=20)
    shift, classes = (
        draw(N, 1, seed=5),
        torch.randperm(K, generator=torch.Generator().manual_seed(0)),
    )
    renamed = of_kd(
        z[:, classes], v[:, classes], classes.argsort()[Y], temperature=2.0, bootstrap=20
    )
    shifted = of_kd(z + shift, v - shift, Y, temperature=2.0, bootstrap=20)
    monkeypatch.setattr(module, "_ROWS", 7)
    blocks = of_kd(z, v, Y, temperature=2.0, bootstrap=20)
    for other in (renamed, shifted, blocks):
        assert flat(other) == pytest.approx(flat(whole), abs=1e-9)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    shuffled = of_kd(z[order], v[order], Y[order], temperature=2.0, bootstrap=20)
    assert (shuffled.pearson.value, shuffled.spearman.value) == pytest.approx(
        (whole.pearson.value, whole.spearman.value)
    )
    assert flat(dataclasses.replace(shuffled, pearson=None, spearman=None)) == pytest.approx(
        flat(dataclasses.replace(whole, pearson=None, spearman=None))
    )


def flat(result):
    """All numbers of a result, nested as they are, in one list."""
    if isinstance(result, dict):
        return [number for value in result.values() for number in flat(value)]
    if isinstance(result, list | tuple):
        return [number for value in result for number in flat(value)]
    if isinstance(result, int | float):
        return [float(result)]
    return flat(dataclasses.asdict(result)) if dataclasses.is_dataclass(result) else []


def test_samples_without_a_gradient_are_dropped_and_counted():
    z, v = draw(N, K), draw(N, K, seed=1)
    z[torch.arange(10), Y[:10]] += 60
    z[torch.arange(10, 12), Y[10:12]] += 12  # 1 - p is small and not too small
    found, rest = (
        of_kd(z, v, Y, temperature=4.0, bootstrap=20),
        of_kd(z[10:], v[10:], Y[10:], temperature=4.0, bootstrap=20),
    )
    assert (found.n, found.dropped) == (N - 10, 10)
    assert flat(dataclasses.replace(found, dropped=0)) == pytest.approx(flat(rest))
    z[torch.arange(N), Y] += 60
    gone = of_kd(z, v, Y, temperature=4.0)
    assert (gone.n, gone.dropped, gone.mean, gone.pearson, gone.curve) == (0, N, None, None, ())
    json.dumps(dataclasses.asdict(gone), allow_nan=False)


def test_a_nearly_certain_student_keeps_its_digits():
    """1 - p = 2e-6: subtracted from 1 it would keep ten digits."""
    z, v = torch.tensor([[14.0, 0.0, 0.0]]).double(), torch.tensor([[9.0, 1.0, 0.0]]).double()
    miss = 2 / (2 + math.exp(14))
    slopes = torch.tensor([-3 * miss], dtype=torch.float64)
    found = rescaling(z, v, torch.tensor([0]), slopes, temperature=1.0, bootstrap=1)
    assert found.mean == pytest.approx(3, rel=1e-14)


def test_teachers_that_know_what_is_hard_for_the_student_lower_its_weight():
    """Prop. 2 on what it is about: at equal p_t, the factor rises with the teacher's confidence."""
    z = torch.tensor([0.0, 1.0, -1.0]).double().expand(50, 3)
    v = torch.stack((torch.linspace(-2, 4, 50), torch.zeros(50), torch.zeros(50)), dim=1).double()
    found = of_kd(z, v, torch.zeros(50).long(), temperature=4.0, bootstrap=20)
    assert (found.pearson.value, found.spearman.value) == pytest.approx((1, 1))
    assert [each.mean for each in found.curve] == sorted(each.mean for each in found.curve)


def test_the_curve_holds_every_sample_once_in_even_bins(pair):
    found = of_kd(*pair, Y, temperature=4.0, bins=4, bootstrap=1)
    assert [each.n for each in found.curve] == [15, 15, 15, 15]
    assert sum(each.mean * each.n for each in found.curve) / N == pytest.approx(found.mean)
    assert all(each.low <= each.median <= each.high for each in found.curve)
    q, order = (pair[1] / 4).softmax(1).gather(1, Y[:, None])[:, 0].sort()
    assert [each.confidence for each in found.curve] == pytest.approx(
        q.view(4, 15).mean(1).tolist()
    )
    rows = zip(*(x[order].tolist() for x in (*pair, Y)), strict=True)
    w = torch.tensor([by_hand(*row, 4.0, 0.9, 0.1, 1)[0] for row in rows]).view(4, 15)
    assert [each.median for each in found.curve] == pytest.approx(w.median(dim=1).values.tolist())
    assert len(of_kd(*pair, Y, temperature=4.0, bins=50, bootstrap=1).curve) == N // 10


def test_equal_confidences_share_a_bin(pair):
    v = pair[1].clone()
    v[:40] = v[0]
    found = of_kd(pair[0], v, torch.zeros(N).long(), temperature=1.0, bins=5, bootstrap=1)
    assert max(each.n for each in found.curve) >= 40
    assert sum(each.n for each in found.curve) == N


@pytest.mark.parametrize("bias", [False, True])
def test_distance_ranks_are_their_definition(bias):
    h, w, b, v = (
        draw(N, D),
        draw(K, D, seed=1),
        draw(K, seed=2) if bias else None,
        draw(N, K, seed=3),
    )
    found = distance_ranks(h, w, v, Y, head_bias=b, bootstrap=50)
    each = []
    for i in range(N):
        others = [k for k in range(K) if k != Y[i]]
        near = []
        for k in others:
            square = sum((h[i, d] - w[k, d]).item() ** 2 for d in range(D))
            near.append(-square - ((1 - b[k].item()) ** 2 if bias else 0))
        q = softmax(v[i].tolist(), 4.0)
        each.append(spearman_by_hand(near, [q[k] for k in others]))
    assert (found.n, found.skipped) == (N, 0)
    assert found.correlation.value == pytest.approx(sum(each) / N, abs=1e-9)
    assert found.correlation.low < found.correlation.value < found.correlation.high


def test_a_student_at_its_optimum_ranks_distances_as_its_teacher_ranks_classes(monkeypatch):
    """Equal weight norms, and logits that are the teacher's: the proposition's case."""
    monkeypatch.setattr(module, "_ROWS", 13)
    h, w = draw(N, 8), functional.normalize(draw(K, 8, seed=1), dim=1)
    assert distance_ranks(
        h, w, 3 * h @ w.T + 5, Y, bootstrap=20
    ).correlation.value == pytest.approx(1.0)
    assert distance_ranks(h, w, -h @ w.T, Y, bootstrap=20).correlation.value == pytest.approx(-1.0)


def test_distance_ranks_depend_on_no_rotation_order_or_shift():
    h, w, v = draw(N, D), draw(K, D, seed=1), draw(N, K, seed=3)
    first = distance_ranks(h, w, v, Y, bootstrap=20)
    turn, _ = torch.linalg.qr(draw(D, D, seed=4))
    classes = torch.randperm(K, generator=torch.Generator().manual_seed(0))
    assert distance_ranks(2 * h @ turn, 2 * w @ turn, v, Y, bootstrap=20) == first
    assert distance_ranks(h + 3, w + 3, 5 * v + draw(N, 1, seed=6), Y, bootstrap=20) == first
    assert flat(
        distance_ranks(h, w[classes], v[:, classes], classes.argsort()[Y], bootstrap=20)
    ) == pytest.approx(flat(first))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert distance_ranks(
        h[order], w, v[order], Y[order], bootstrap=20
    ).correlation.value == pytest.approx(first.correlation.value)


def test_samples_without_an_order_are_skipped():
    h, w, v = draw(N, D), draw(K, D, seed=1), draw(N, K, seed=3)
    v[:7] = functional.one_hot(Y[:7], K).double()
    found = distance_ranks(h, w, v, Y, bootstrap=20)
    assert (found.n, found.skipped) == (N - 7, 7)
    assert found.correlation == distance_ranks(h[7:], w, v[7:], Y[7:], bootstrap=20).correlation
    assert distance_ranks(h, torch.zeros(K, D), v, Y).correlation is None


def spoiled(x, row=3):
    x = x.clone()
    x[row, 0] = math.nan
    return x


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"z": draw(N, K + 1)},
            Incompatible,
            r"small has logits of shape \[60, 6\], big of shape \[60, 5\]",
        ),
        (
            {"z": spoiled(draw(N, K))},
            BadData,
            "small are not finite for 1 of 60 samples, first for sample 3",
        ),
        (
            {"v": spoiled(draw(N, K), 8)},
            BadData,
            "big are not finite for 1 of 60 samples, first for sample 8",
        ),
        ({"v": torch.ones(N, K)}, BadData, "big are constant"),
        ({"z": torch.arange(N)[:, None].expand(N, K).double()}, BadData, "small are constant"),
        ({"targets": Y + 1}, BadData, "classes 0 to 4"),
        ({"targets": Y[:5]}, Incompatible, "small has logits of shape"),
        ({"temperature": 0.0}, UsageError, "temperature must be a number greater than 0"),
        ({"temperature": -1.0}, UsageError, "temperature must be a number greater than 0"),
        ({"slopes": torch.zeros(5)}, Incompatible, r"gradients of small have shape \[5\]"),
        (
            {"slopes": spoiled(draw(N, 1))[:, 0]},
            BadData,
            "gradients of small are not finite for 1 of 60, first for sample 3",
        ),
        ({"bins": 0}, UsageError, "bins must be at least 1"),
        ({"bootstrap": 0}, UsageError, "resamples must be at least 1"),
    ],
)
def test_what_rescaling_refuses(pair, change, error, words):
    arguments = {
        "z": pair[0],
        "v": pair[1],
        "targets": Y,
        "slopes": torch.zeros(N).double(),
        "temperature": 4.0,
        "student": "small",
        "teacher": "big",
        **change,
    }
    with pytest.raises(error, match=words):
        rescaling(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"features": draw(N, D + 1)},
            Incompatible,
            r"features \[60, 5\], weight \[5, 4\] and bias \[5\]",
        ),
        ({"features": draw(N - 1, D)}, Incompatible, "do not fit 60 samples of 5 classes"),
        ({"head_weight": draw(K + 1, D)}, Incompatible, r"weight \[6, 4\]"),
        ({"head_bias": draw(K + 1)}, Incompatible, r"bias \[6\]"),
        (
            {"features": spoiled(draw(N, D))},
            BadData,
            "features of small are not finite for 1 of 60, first for sample 3",
        ),
        (
            {"head_weight": spoiled(draw(K, D), 2)},
            BadData,
            "last layer weights of small are not finite for 1 of 5, first for class 2",
        ),
        ({"head_bias": spoiled(draw(K, 1), 1)[:, 0]}, BadData, "first for class 1"),
        ({"v": torch.zeros(N, K)}, BadData, "big are constant"),
        (
            {"v": draw(N, 2), "targets": Y % 2, "head_weight": draw(2, D)},
            Incompatible,
            "big has 2 classes",
        ),
        ({"bootstrap": 0}, UsageError, "resamples must be at least 1"),
    ],
)
def test_what_distance_ranks_refuse(change, error, words):
    arguments = {
        "features": draw(N, D),
        "head_weight": draw(K, D),
        "v": draw(N, K),
        "targets": Y,
        "student": "small",
        "teacher": "big",
    }
    with pytest.raises(error, match=words):
        distance_ranks(**(arguments | change))
