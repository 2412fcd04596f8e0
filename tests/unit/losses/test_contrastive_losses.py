"""The contrastive loss against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from kdcli import losses
from kdcli.errors import Incompatible, UsageError


def ratios(seed, images=3, negatives=6):
    return (
        torch.rand(
            images,
            1 + negatives,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed),
        )
        + 0.01
    )


def test_crd_is_the_noise_contrastive_estimate():
    o, num_train = ratios(0), 20
    c = 6 / num_train
    total = 0.0
    for positive, *negatives in o.tolist():
        total += math.log(positive / (positive + c + 1e-7)) + sum(
            math.log(c / (x + c + 1e-7)) for x in negatives
        )
    assert losses.crd(o, num_train=num_train).item() == pytest.approx(-total / 3, rel=1e-9)


def test_by_hand():
    # K = 2 of 4 samples: c = 1/2; all ratios 1/2: each logarithm is that of one half
    got = losses.crd(torch.full((5, 3), 0.5, dtype=torch.float64), num_train=4)
    assert got.item() == pytest.approx(3 * math.log(2), abs=1e-6)


def test_a_larger_positive_and_smaller_negatives_cost_less():
    o = ratios(0).requires_grad_()
    losses.crd(o, num_train=20).backward()
    assert (o.grad[:, 0] < 0).all()
    assert (o.grad[:, 1:] > 0).all()


def test_gradients_are_those_of_the_value():
    assert torch.autograd.gradcheck(
        lambda o: losses.crd(o, num_train=20), ratios(0).requires_grad_()
    )


def test_float32_keeps_its_digits_with_thousands_of_negatives():
    o = ratios(0, 4, 16_384) / 50_000
    got = losses.crd(o.float(), num_train=50_000)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(losses.crd(o, num_train=50_000).item(), rel=1e-6)


def test_a_positive_that_underflows_is_finite():
    o = ratios(0).float()
    o[0, 0] = 0
    o.requires_grad_()
    value = losses.crd(o, num_train=20)
    value.backward()
    assert value.isfinite()
    assert o.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(3,), (0, 4), (3, 1)])
def test_ratios_of_another_shape_are_refused(shape):
    with pytest.raises(Incompatible, match=r"losses\.crd needs ratios \[N, 1 \+ K\]"):
        losses.crd(torch.ones(shape), num_train=20)


def test_a_memory_has_samples():
    with pytest.raises(UsageError, match=r"losses\.crd: num_train must be at least 1, got 0"):
        losses.crd(ratios(0), num_train=0)
