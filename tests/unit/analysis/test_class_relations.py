"""Class correlations and weight cosines: direct computations, streams, invariances, superclasses,
jackknife, refusals.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics

import numpy as np
import pytest
import torch

from kdcli.analysis.class_relations import (
    class_order,
    class_relations,
    contrast,
    likeness,
    response_correlation,
    weight_cosines,
)
from kdcli.errors import BadData, Incompatible, UsageError

K = 6
SUPERCLASS = torch.tensor([1, 0, 1, 0, 2, 0])  # in this order, 1 3 5 | 0 2 | 4


def logits_of(n=60, classes=K, seed=0):
    return (
        torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * 3
    )


def correlation(logits, temperature=4.0, **more):
    return response_correlation(logits, temperature, **more).matrix


def symmetric(seed, classes=K):
    values = (
        torch.rand(
            classes, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        * 2
        - 1
    )
    return ((values + values.T) / 2).fill_diagonal_(1.0)


def pairs_of(matrix, classes):
    return {(a, b): matrix[a, b].item() for a, b in itertools.combinations(classes, 2)}


# ---- correlations --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0, 100.0])
def test_it_is_the_correlation_of_the_columns_of_the_probabilities(temperature):
    logits = logits_of()
    q = [[math.exp(x / temperature) for x in row] for row in logits.tolist()]
    q = [[weight / sum(row) for weight in row] for row in q]
    expected = np.corrcoef(np.array(q), rowvar=False)
    found = correlation(logits, temperature)
    assert np.allclose(found, expected, rtol=0, atol=1e-9)
    columns = list(zip(*q, strict=True))
    assert found[1, 4].item() == pytest.approx(
        statistics.correlation(columns[1], columns[4]), abs=1e-9
    )
    assert torch.equal(found, found.T)
    assert torch.equal(found.diagonal(), torch.ones(K, dtype=torch.float64))


def test_blocks_add_up_to_the_whole(monkeypatch):
    logits = logits_of()
    whole = correlation(logits)
    monkeypatch.setattr("kdcli.analysis.class_relations._ROWS", 4)
    found = response_correlation(logits, 4.0)
    assert torch.allclose(found.matrix, whole, rtol=0, atol=1e-13)
    assert found.n == 60


def test_at_a_very_high_temperature_no_digits_are_lost():
    """q is then (1 + (v - mean v) / tau) / K: its correlations are those of centred logits."""
    logits = logits_of()
    expected = np.corrcoef((logits - logits.mean(dim=1, keepdim=True)).numpy(), rowvar=False)
    assert np.allclose(correlation(logits, 1e7), expected, rtol=0, atol=1e-5)


def test_a_constant_added_to_the_logits_of_a_sample_and_the_order_of_samples_change_nothing():
    logits = logits_of()
    generator = torch.Generator().manual_seed(1)
    moved = (logits + 40 * torch.randn(60, 1, generator=generator, dtype=torch.float64))[
        torch.randperm(60, generator=generator)
    ]
    assert torch.allclose(correlation(moved), correlation(logits), rtol=0, atol=1e-12)


def test_classes_in_another_order_give_the_matrix_in_that_order():
    logits, order = logits_of(), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(
        correlation(logits[:, order]), correlation(logits)[order][:, order], rtol=0, atol=1e-12
    )


def test_only_the_largest_are_kept():
    logits, k = logits_of(), 2
    rows = []
    for row in logits.tolist():
        weights = [math.exp(x / 4) for x in row]
        q = [weight / sum(weights) for weight in weights]
        kept = sorted(range(K), key=lambda j: -q[j])[:k]
        rest = (1 - sum(q[j] for j in kept)) / (K - k)
        rows.append([q[j] if j in kept else rest for j in range(K)])
    assert np.allclose(
        correlation(logits, top_k=k), np.corrcoef(np.array(rows), rowvar=False), rtol=0, atol=1e-9
    )
    assert torch.allclose(correlation(logits, top_k=K), correlation(logits), rtol=0, atol=1e-12)


def test_a_probability_that_does_not_vary_has_zeros():
    logits = logits_of()
    logits[:, 2] = -math.inf
    logits = logits.nan_to_num(neginf=-1e6)  # q_2 is 0 to the last bit
    found = correlation(logits, 1.0)
    assert torch.equal(found[2], torch.zeros(K, dtype=torch.float64))
    assert torch.equal(found[:, 2], torch.zeros(K, dtype=torch.float64))
    assert found.isfinite().all()
    assert found[0, 0] == 1
    # a network that answers everything alike
    same = torch.tensor([[1.0, 2.0, 4.0, 0.3]]).expand(1000, 4).clone()
    assert torch.equal(correlation(same, 3.0), torch.zeros(4, 4, dtype=torch.float64))


def test_what_a_correlation_refuses():
    logits = logits_of(8)
    with pytest.raises(UsageError, match="temperature must be a number greater than 0"):
        response_correlation(logits, 0.0)
    with pytest.raises(Incompatible, match="teacher big has 2 classes"):
        response_correlation(logits[:, :2], 1.0, label="teacher big")
    with pytest.raises(UsageError, match="at least 1, got 0"):
        response_correlation(logits, 1.0, top_k=0)
    with pytest.raises(Incompatible, match="largest 7 probabilities"):
        response_correlation(logits, 1.0, top_k=7)
    with pytest.raises(BadData, match="take two samples, there are 0"):
        response_correlation(logits[:0], 1.0)
    logits[5, 0] = math.nan
    with pytest.raises(BadData, match=r"teacher big are not finite.*first for sample 5"):
        response_correlation(logits, 1.0, label="teacher big")
    with pytest.raises(BadData, match="logits of the network are constant"):
        correlation(torch.arange(5.0)[:, None].expand(5, 4))


# ---- weights -------------------------------------------------------------------------------------


def test_cosines_of_weights():
    weight = torch.randn(K, 5, generator=torch.Generator().manual_seed(2))
    found = weight_cosines(weight)
    for a, b in itertools.product(range(K), repeat=2):
        one, other = weight[a].tolist(), weight[b].tolist()
        dot = sum(x * y for x, y in zip(one, other, strict=True))
        assert found[a, b].item() == pytest.approx(
            dot / math.hypot(*one) / math.hypot(*other), abs=1e-9
        )
    lengths = torch.tensor([1.0, 2.0, 0.5, 1e-20, 1e15, 3.0])[:, None]
    assert torch.allclose(weight_cosines(weight * lengths), found, atol=1e-6)
    rotation = torch.linalg.qr(
        torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ).Q
    assert torch.allclose(weight_cosines(weight.double() @ rotation), found, atol=1e-9)


def test_a_weight_row_of_zeros_is_alike_to_nothing():
    weight = torch.randn(4, 5)
    weight[1] = 0
    found = weight_cosines(weight)
    assert torch.equal(found[1], torch.zeros(4, dtype=torch.float64))
    assert found[0, 0] == 1


def test_weights_that_are_refused():
    with pytest.raises(Incompatible, match=r"shape \[6\], not \[K, D\]"):
        weight_cosines(torch.randn(6))
    with pytest.raises(Incompatible, match="has 2 classes"):
        weight_cosines(torch.randn(2, 6))
    weight = torch.randn(4, 5)
    weight[2, 1] = math.inf
    with pytest.raises(BadData, match="not finite, first for class 2"):
        weight_cosines(weight)


# ---- contrast and likeness -----------------------------------------------------------------------


def contrast_by_hand(matrix, superclass, classes):
    pairs = pairs_of(matrix, classes)
    within = [value for (a, b), value in pairs.items() if superclass[a] == superclass[b]]
    across = [value for (a, b), value in pairs.items() if superclass[a] != superclass[b]]
    return statistics.fmean(within), statistics.fmean(across), (len(within), len(across))


def jackknife_by_hand(value, left):
    mean = statistics.fmean(left)
    half = 1.959963984540054 * math.sqrt(
        (len(left) - 1) / len(left) * sum((each - mean) ** 2 for each in left)
    )
    return value - half, value + half


def test_contrast_of_superclasses():
    matrix = symmetric(4)
    found = contrast(matrix, SUPERCLASS)
    within, across, pairs = contrast_by_hand(matrix, SUPERCLASS, range(K))
    assert (found.within, found.across) == pytest.approx((within, across))
    assert found.difference == pytest.approx(within - across)
    assert found.pairs == pairs == (4, 11)
    left = []
    for c in range(K):
        inside, outside, _ = contrast_by_hand(matrix, SUPERCLASS, [k for k in range(K) if k != c])
        left.append(inside - outside)
    assert (found.interval.low, found.interval.high) == pytest.approx(
        jackknife_by_hand(within - across, left)
    )


def test_contrast_of_blocks_is_their_height():
    found = contrast((SUPERCLASS[:, None] == SUPERCLASS).double() * 0.7 + 0.1, SUPERCLASS)
    assert found.difference == pytest.approx(0.7)
    assert found.interval.low == pytest.approx(0.7)


def test_contrast_needs_pairs_of_both_kinds():
    matrix = symmetric(5)
    assert contrast(matrix, torch.zeros(K, dtype=torch.int64)) is None
    assert contrast(matrix, torch.arange(K)) is None
    # one pair within: none without class 0
    found = contrast(matrix, torch.tensor([0, 0, 1, 2, 3, 4]))
    assert found.within == pytest.approx(matrix[0, 1].item())
    assert found.interval is None


def test_likeness_is_the_correlation_of_the_entries_off_the_diagonal():
    one, other = symmetric(6), symmetric(7)
    value, interval = likeness(one, other)

    def over(classes):
        return statistics.correlation(
            list(pairs_of(one, classes).values()), list(pairs_of(other, classes).values())
        )

    assert value == pytest.approx(over(range(K)))
    left = [over([k for k in range(K) if k != c]) for c in range(K)]
    low, high = jackknife_by_hand(value, left)
    assert (interval.low, interval.high) == pytest.approx((max(low, -1), min(high, 1)))
    assert likeness(one, one * 0.25 + 0.3)[0] == pytest.approx(1)
    assert likeness(one, -one)[0] == pytest.approx(-1)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert likeness(one[order][:, order], other[order][:, order])[0] == pytest.approx(value)
    assert likeness(other, one)[0] == pytest.approx(value)


def test_likeness_of_what_does_not_vary_is_unknown():
    flat = torch.full((K, K), 0.1, dtype=torch.float64).fill_diagonal_(1.0)
    assert likeness(flat, symmetric(8)) == (None, None)
    assert likeness(symmetric(8), torch.eye(K, dtype=torch.float64)) == (None, None)
    value, interval = likeness(symmetric(8, classes=3), symmetric(9, classes=3))
    assert value is not None
    assert interval is None


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(Incompatible, match="of 6 and of 4 classes"):
        likeness(symmetric(1), symmetric(1, classes=4))
    with pytest.raises(
        Incompatible, match=r"superclasses for \[3\] classes, and the network has 6"
    ):
        contrast(symmetric(1), torch.zeros(3, dtype=torch.int64))


# ---- all of it -----------------------------------------------------------------------------------


def test_classes_of_a_superclass_stand_side_by_side():
    assert class_order(K, SUPERCLASS) == (1, 3, 5, 0, 2, 4)
    assert class_order(3, None) == (0, 1, 2)


def test_matrices_come_in_the_order_of_superclasses():
    weight = torch.randn(K, 5, generator=torch.Generator().manual_seed(2))
    weight[5] = 0
    low = response_correlation(logits_of(), 1.0)
    kept = response_correlation(logits_of(), 4.0, top_k=3)
    found = class_relations((low, kept), weight=weight, superclass=SUPERCLASS)
    assert found.order == (1, 3, 5, 0, 2, 4)
    assert found.superclass == (0, 0, 0, 1, 1, 2)
    assert [(each.of, each.temperature, each.top_k, each.n) for each in found.matrices] == [
        ("probabilities", 1.0, None, 60),
        ("probabilities", 4.0, 3, 60),
        ("weights", None, None, None),
    ]
    for row, column in itertools.product(range(K), repeat=2):
        assert (
            found.matrices[0].values[row][column]
            == low.matrix[found.order[row], found.order[column]].item()
        )
    assert found.matrices[0].contrast == contrast(low.matrix, SUPERCLASS)
    assert found.matrices[2].zero_classes == (5,)
    assert [(each.first, each.second, each.pairs) for each in found.likeness] == [
        (0, 2, 15),
        (1, 2, 15),
    ]
    assert found.likeness[1].value == likeness(kept.matrix, weight_cosines(weight))[0]
    json.dumps(dataclasses.asdict(found))


def test_parts_can_be_left_out():
    bare = class_relations([response_correlation(logits_of(), 4.0)], keep=False)
    assert bare.superclass is None
    assert bare.likeness == ()
    assert bare.matrices[0].values is None
    assert bare.matrices[0].contrast is None
    only = class_relations((), weight=torch.randn(K, 3))
    assert [each.of for each in only.matrices] == ["weights"]
    with pytest.raises(Incompatible, match=r"teacher big has matrices of \[4, 6\] classes"):
        class_relations(
            [response_correlation(logits_of(), 4.0)], weight=torch.randn(4, 3), label="teacher big"
        )
    with pytest.raises(Incompatible, match="neither"):
        class_relations((), label="teacher big")


def test_superclasses_show_at_a_higher_temperature_only():
    """Figure 1 of paper 002: a network that is nearly always sure, and whose siblings answer for
    each other.
    """
    classes, n = 12, 600
    superclass = torch.arange(classes) // 3
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % classes
    alike = (superclass[targets][:, None] == superclass).double() * 8
    logits = alike + torch.randn(n, classes, generator=generator, dtype=torch.float64) * 0.5
    logits[torch.arange(n), targets] += 6
    found = class_relations(read_of(logits, (0.5, 10.0)), superclass=superclass)
    low, high = (each.contrast.difference for each in found.matrices)
    assert abs(low) < 0.02
    assert high > 0.3
    assert found.matrices[1].contrast.interval.low > 0.2


def read_of(logits, temperatures):
    return [response_correlation(logits, temperature) for temperature in temperatures]
