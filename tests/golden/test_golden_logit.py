"""Losses of the logit methods against numbers worked out by hand.

Logits are multiples of log 2, so that softmaxes are fractions: softmax(2 log [1, 2, 1] / 2) = [1,
2, 1] / 4.
"""

from __future__ import annotations

from math import e as E  # noqa: N812
from math import log

import numpy as np
import pytest
import torch

from kdcli import losses
from kdcli.errors import Incompatible

LOG2 = log(2)


def close(**expected):
    return pytest.approx(expected, rel=1e-12)


def test_none(terms):
    # softmax [1 2 1]/4 with label 1, and uniform with label 0: mean of log 2 and log 3
    z = [[0, LOG2, 0], [7, 7, 7]]
    assert terms("none", z, None, [1, 0]) == close(ce=(LOG2 + log(3)) / 2)


@pytest.mark.parametrize(
    ("form", "in_log2"),
    [
        ("uniform", 0.1 * 2 + 0.8 + 0.1 * 2),  # targets 0.1 0.8 0.1 against 1/4 1/2 1/4
        ("others", 0.15 * 2 + 0.7 + 0.15 * 2),
    ],
)
def test_label_smoothing(terms, form, in_log2):
    assert terms("label_smoothing", [[0, LOG2, 0]], None, [1], smoothing=0.3, form=form) == close(
        ce=in_log2 * LOG2
    )


# at temperature 2: p = [1 2 1]/4, q = [1 1 2]/4, KL(q||p) = 1/4 log 2; the second row is the same
# on both sides
KD_Z = [[0, 2 * LOG2, 0], [1, 2, 3]]
KD_V = [[0, 0, 2 * LOG2], [1, 2, 3]]
KD_CE = (log(6 / 4) - log(1 / (1 + 1 / E + E**-2))) / 2  # labels 1 and 2, at temperature 1


def test_kd(terms):
    # tau^2 * (1/4 log 2 + 0) / 2 = 1/2 log 2
    assert terms("kd", KD_Z, KD_V, [1, 2], temperature=2, weight=0.9) == close(
        ce=0.1 * KD_CE, kd=0.9 * LOG2 / 2
    )


def test_kd_under_the_conventions_of_other_code_bases(terms):
    assert terms("kd", KD_Z, KD_V, [1, 2], temperature=2, weight=1, reduction="mean") == close(
        ce=0, kd=LOG2 / 2 / 3
    )
    assert terms("kd", KD_Z, KD_V, [1, 2], temperature=2, weight=1, t_squared=False) == close(
        ce=0, kd=LOG2 / 2 / 4
    )
    assert terms("kd", KD_Z, KD_V, [1, 2], temperature=2, weight=2, ce_weight=3) == close(
        ce=3 * KD_CE, kd=LOG2
    )
    assert terms("kd", KD_Z, KD_V, [1, 2], temperature=2, weight=2) == close(ce=0, kd=LOG2)


# the student's row is 5 + 3 [0 -1 1], the teacher's 2 log 2 [0 1 2]: on the teacher's sphere the
# student is 2 log 2 [0 -1 1]
SKD_Z = [[5.0, 2.0, 8.0]]
SKD_V = [[0.0, 2 * LOG2, 4 * LOG2]]


def test_skd_scales_the_student_in_both_terms(terms):
    # at temperature 2 p = [2 1 4]/7 and q = [1 2 4]/7: KL = 1/7 log 2. At temperature 1 exp(z-hat)
    # = 1, 1/4, 4: 4/5.25 = 16/21
    assert terms("skd", SKD_Z, SKD_V, [2], temperature=2) == close(
        ce=0.1 * log(21 / 16), skd=0.9 * 4 * LOG2 / 7
    )


def test_skd_at_a_constant_spread(terms):
    # biased deviation of [-1 0 1] is sqrt(2/3): with m = 2 log 2 sqrt(2/3) both rows are 2 log 2
    # times their directions
    m = 2 * LOG2 * (2 / 3) ** 0.5
    got = terms(
        "skd", SKD_Z, [[1.0, 11.0, 21.0]], [2], temperature=2, align="constant", multiplier=m
    )
    assert got == close(ce=0.1 * log(21 / 16), skd=0.9 * 4 * LOG2 / 7)


def test_skd_as_printed(terms):
    # z / |z| = [0.6 0 0.8], v / |v| = [0 0.6 0.8]: with temperature 0.2 / log 2 exponents are
    # powers of two: 2^3 2^0 2^4
    tau = 0.2 / LOG2
    ce = log(E**0.6 + 1 + E**0.8) - 0.8
    got = terms("skd", [[3.0, 0.0, 4.0]], [[0.0, 3.0, 4.0]], [2], temperature=tau, align="unit")
    assert got == close(ce=0.1 * ce, skd=0.9 * tau**2 * LOG2 * (8 * 3 - 1 * 3) / 25)


@pytest.mark.parametrize("align", ["unit", "teacher_std"])
def test_skd_with_the_cross_entropy_of_equation_16(terms, align):
    # equations 15 and 16 in numpy, row by row: logits on the sphere in the distillation term alone
    z, v = random_rows(seed=0), random_rows(seed=1)
    y, tau, share = [3, 0, 2], 4.0, 0.7
    ce = soft = 0.0
    for z_i, v_i, label in zip(z, v, y, strict=True):
        if align == "unit":
            z_hat, v_hat = z_i / np.sqrt((z_i**2).sum()), v_i / np.sqrt((v_i**2).sum())
        else:
            z_hat, v_hat = z_i * v_i.std(ddof=1) / z_i.std(ddof=1), v_i
        p, q = (np.exp(x / tau) / np.exp(x / tau).sum() for x in (z_hat, v_hat))
        soft += tau**2 * (q * np.log(q / p)).sum() / 3
        ce -= np.log(np.exp(z_i)[label] / np.exp(z_i).sum()) / 3
    options = {"temperature": tau, "weight": share, "align": align, "ce_logits": "raw"}
    got = terms("skd", z.tolist(), v.tolist(), y, **options)
    assert got == close(ce=(1 - share) * ce, skd=share * soft)


def random_rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=3, size=(3, 5))


def test_skd_weight_schedule_counts_finished_epochs(terms):
    schedule = {"weight_schedule": [[80, 0.1], [60, 0.5]], "temperature": 2}
    for epoch, weight in ((1, 0.9), (60, 0.9), (61, 0.5), (80, 0.5), (81, 0.1), (100, 0.1)):
        got = terms("skd", SKD_Z, SKD_V, [2], epoch=epoch, **schedule)
        assert got == close(ce=(1 - weight) * log(21 / 16), skd=weight * 4 * LOG2 / 7)


def test_logit_std(terms):
    # z-scores are [0 -1 1] and [-1 0 1]; with temperature 1 / log 2, p = [2 1 4]/7 and q = [1 2
    # 4]/7. The cross-entropy is of raw logits
    ce = log(1 + E**-3 + E**-6)
    got = terms("logit_std", SKD_Z, SKD_V, [2], temperature=1 / LOG2)
    assert got == close(ce=0.1 * ce, kd=9 * LOG2**-2 * LOG2 / 7)


@pytest.mark.parametrize("name", ["skd", "logit_std"])
def test_methods_on_a_sphere_show_the_student_at_the_teachers_spread(given, name):
    z, v = torch.tensor(SKD_Z, dtype=torch.float64), torch.tensor(SKD_V, dtype=torch.float64)
    method = given(name, SKD_Z, SKD_V)
    aligned, facing = method.aligned(method.options, z, v)
    assert facing is v
    torch.testing.assert_close(
        aligned, 2 * LOG2 * torch.tensor([[0.0, -1.0, 1.0]], dtype=torch.float64)
    )


def test_plain_distillation_shows_raw_logits(given):
    z = torch.tensor(KD_Z, dtype=torch.float64)
    method, v = given("kd", KD_Z, KD_V), 2 * z
    z_hat, v_hat = method.aligned(method.options, z, v)
    assert (z_hat is z, v_hat is v) == (True, True)


@pytest.mark.parametrize("align", ["constant", "unit"])
def test_a_sphere_of_the_methods_own_shows_both_networks_on_it(given, align):
    z, v = torch.tensor(SKD_Z, dtype=torch.float64), torch.tensor(SKD_V, dtype=torch.float64)
    method = given("skd", SKD_Z, SKD_V, align=align)
    assert all(
        map(
            torch.equal,
            method.aligned(method.options, z, v),
            losses.spherical(z, v, align=align, multiplier=2.0),
        )
    )


@pytest.mark.parametrize("name", ["skd", "logit_std"])
def test_two_classes_are_refused_where_only_a_sign_would_be_left(given, name):
    with pytest.raises(Incompatible, match=f"{name} needs at least 3 classes, given has 2"):
        given(name, [[0.0, 1.0]], [[1.0, 0.0]])
