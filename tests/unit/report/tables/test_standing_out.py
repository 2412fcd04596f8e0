"""Tests of the best of a table against the others, beside scipy's and by hand."""

import numpy as np
import pytest
from scipy import stats

from kdcli.report.tables.standing_out import Values, compare

A = {0: 0.71, 1: 0.74, 2: 0.75}
B = {0: 0.70, 1: 0.71, 2: 0.73}
C = {0: 0.60, 1: 0.72, 2: 0.50}


def cell(row, merits, right=None):
    return Values(row, "", merits, right or {})


def test_seeds_that_pair_are_paired_and_others_are_not():
    (paired,) = compare([[cell("a", A), cell("b", B)]], "test.accuracy")
    expected = stats.ttest_rel(list(A.values()), list(B.values()))
    assert paired.paired
    assert paired.p_seeds == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((interval.low, interval.high))
    others = {seed + 10: value for seed, value in B.items()}
    (apart,) = compare([[cell("a", A), cell("b", others)]], "test.accuracy")
    assert not apart.paired
    assert apart.seeds == 0
    welch = stats.ttest_ind(list(A.values()), list(B.values()), equal_var=False)
    assert apart.p_seeds == pytest.approx(welch.pvalue)


def test_all_comparisons_of_a_table_are_corrected_together():
    lines = [[cell("a", A), cell("b", B), cell("c", C)], [cell("a2", A), cell("b2", B)]]
    found = compare(lines, "test.accuracy")
    plain = [item.p_seeds for item in found]
    order = np.argsort(plain, kind="stable")
    expected, least = {}, 0.0
    for rank, place in enumerate(order):
        least = max(least, min((len(plain) - rank) * plain[place], 1.0))
        expected[place] = least
    assert [item.p_value for item in found] == pytest.approx([expected[i] for i in range(3)])
    alone = compare([lines[0][:2]], "test.accuracy")[0]
    assert alone.high - alone.low < found[0].high - found[0].low


def test_images_are_paired_only_where_they_are_the_same():
    right = np.arange(200) < 150
    worse = np.arange(200) < 120
    one = {0: 0.75}
    same = compare(
        [[cell("a", one, {0: ("x", right)}), cell("b", {0: 0.6}, {0: ("x", worse)})]],
        "test.accuracy",
    )[0]
    expected = stats.ttest_rel(right.astype(float), worse.astype(float))
    assert same.p_images == pytest.approx(expected.pvalue)
    assert same.stands_out
    other = compare(
        [[cell("a", one, {0: ("x", right)}), cell("b", {0: 0.6}, {0: ("y", worse)})]],
        "test.accuracy",
    )[0]
    assert other.p_images is other.p_value is other.low is None
    assert not other.stands_out


def test_equal_cells_do_not_stand_out_and_a_constant_difference_does():
    (equal,) = compare([[cell("a", A), cell("b", A)]], "test.accuracy")
    assert equal.p_value == 1.0
    shifted = {seed: value - 0.125 for seed, value in {0: 0.5, 1: 0.75}.items()}
    (constant,) = compare([[cell("a", {0: 0.5, 1: 0.75}), cell("b", shifted)]], "test.accuracy")
    assert constant.p_seeds == 0.0
    assert (constant.low, constant.high) == (0.125, 0.125)
