"""Correlations over samples and inside them: against loops, in resamples, with ties, and where
there is nothing to correlate.
"""

from __future__ import annotations

import math

import pytest
import torch

from kdcli.analysis.bootstrap import resampled_counts
from kdcli.analysis.correlation import correlations, ranks, spearman_rows


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rank_by_hand(values):
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def pearson_by_hand(x, y):
    x, y = [a - sum(x) / len(x) for a in x], [b - sum(y) / len(y) for b in y]
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(
        sum(a * a for a in x) * sum(b * b for b in y)
    )


def spearman_by_hand(x, y):
    return pearson_by_hand(rank_by_hand(x), rank_by_hand(y))


def test_equal_values_share_the_mean_of_their_ranks():
    rows = [[3.0, 1.0, 3.0, 2.0, 3.0], [0.5, 0.1, 0.2, 0.4, 0.3]]
    assert ranks(torch.tensor(rows)).tolist() == [
        [4.0, 1.0, 4.0, 2.0, 4.0],
        [5.0, 1.0, 2.0, 4.0, 3.0],
    ]


@pytest.mark.parametrize("digits", [1, 12])
def test_rows_are_ranked_one_by_one(digits):
    x, y = draw(9, 7).round(decimals=digits), draw(9, 7, seed=1).round(decimals=digits)
    expected = [spearman_by_hand(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert spearman_rows(x, y).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_constant_row_has_no_correlation():
    assert spearman_rows(torch.ones(1, 4), draw(1, 4)).isnan().all()


@pytest.mark.parametrize("digits", [0, 12])
def test_correlations_are_their_definitions_over_samples_and_in_every_resample(digits):
    x = draw(40).round(decimals=digits)
    y = (x + draw(40, seed=1)).round(decimals=digits)
    found = correlations(x, y, resamples=60, seed=3)
    picks = [
        torch.arange(40).repeat_interleave(row.long())
        for counts in resampled_counts(40, resamples=60, seed=3)
        for row in counts
    ]
    for estimate, by_hand in ((found.pearson, pearson_by_hand), (found.spearman, spearman_by_hand)):
        assert estimate.value == pytest.approx(by_hand(x.tolist(), y.tolist()), abs=1e-12)
        again = torch.tensor(
            [by_hand(x[pick].tolist(), y[pick].tolist()) for pick in picks], dtype=torch.float64
        )
        assert estimate.low == pytest.approx(torch.quantile(again, 0.025).item(), abs=1e-12)
        assert estimate.high == pytest.approx(torch.quantile(again, 0.975).item(), abs=1e-12)


def test_ranks_see_order_alone_and_values_see_lines():
    x, y = draw(50), draw(50, seed=1)
    plain, moved = (
        correlations(x, y, resamples=20, seed=0),
        correlations(3 * x - 5, y.exp(), resamples=20, seed=0),
    )
    assert moved.spearman == plain.spearman
    line = correlations(x, 2 - 3 * x, resamples=20, seed=0)
    assert (line.pearson.value, line.spearman.value) == pytest.approx((-1, -1))


def test_one_sample_a_million_times_the_others_leaves_digits_for_them():
    x = draw(30)
    x[4] = 1e6
    y = draw(30, seed=1)
    assert correlations(x, y, resamples=5, seed=0).pearson.value == pytest.approx(
        pearson_by_hand(x.tolist(), y.tolist()), abs=1e-12
    )


@pytest.mark.parametrize(
    "x", [torch.full((9,), 0.1).double(), 1 + 1e-15 * torch.arange(9).double(), draw(2)]
)
def test_nothing_is_said_of_a_constant_or_of_two_samples(x):
    assert correlations(x, draw(len(x), seed=1), resamples=5, seed=0) == (None, None)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Spearman's correlation of normal variables whose Pearson correlation is 0.5
    truth, hits = (
        6 / math.pi * math.asin(0.5 / 2),
        0,
    )
    for seed in range(60):
        x = draw(120, seed=seed)
        y = 0.5 * x + math.sqrt(0.75) * draw(120, seed=1000 + seed)
        estimate = correlations(x, y, resamples=200, seed=seed).spearman
        hits += estimate.low <= truth <= estimate.high
    assert hits >= 50
