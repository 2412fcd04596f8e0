"""Entropy and free energy of logits."""

from __future__ import annotations

import math

import pytest
import torch

from kdcli import losses
from kdcli.errors import Incompatible, UsageError


def test_values_worked_out_by_hand():
    # at temperature 2: [1 2 1] / 4, and thirds
    x = 2 * torch.tensor([[1, 2, 1], [3, 3, 3]], dtype=torch.float64).log()
    torch.testing.assert_close(
        losses.entropy(x, temperature=2),
        torch.tensor([1.5 * math.log(2), math.log(3)], dtype=torch.float64),
    )
    torch.testing.assert_close(
        losses.free_energy(x, temperature=2),
        2 * torch.tensor([4.0, 9.0], dtype=torch.float64).log(),
    )


@pytest.mark.parametrize("tau", [0.5, 1, 4])
def test_free_energy_is_mean_logit_plus_temperature_times_entropy(logits, tau):
    x = logits(0)
    mean = ((x / tau).softmax(-1) * x).sum(-1)
    torch.testing.assert_close(
        losses.free_energy(x, temperature=tau), mean + tau * losses.entropy(x, temperature=tau)
    )


def test_a_shift_moves_the_free_energy_and_not_the_entropy(logits):
    x = logits(0)
    torch.testing.assert_close(
        losses.free_energy(x + 7, temperature=4), losses.free_energy(x, temperature=4) + 7
    )
    torch.testing.assert_close(
        losses.entropy(x + 7, temperature=4), losses.entropy(x, temperature=4)
    )
    torch.testing.assert_close(
        losses.free_energy(losses.centre(x + 7), temperature=4),
        losses.free_energy(losses.centre(x), temperature=4),
    )


def test_at_high_temperature_the_gaps_follow_the_norms(logits):
    # cumulants of the uniform distribution: S = log K - |x|^2 / (2 K tau^2), so the factor is 1 /
    # (2 K tau^2), not 1 / (K tau^2)
    z, v, tau = (
        losses.centre(logits(0, classes=100)),
        losses.centre(2 * logits(1, classes=100)),
        500.0,
    )
    norms = (v.square().sum(-1) - z.square().sum(-1)) / (2 * 100)
    entropies = losses.entropy(z, temperature=tau) - losses.entropy(v, temperature=tau)
    energies = losses.free_energy(v, temperature=tau) - losses.free_energy(z, temperature=tau)
    torch.testing.assert_close(entropies * tau**2, norms, rtol=0.02, atol=0)
    torch.testing.assert_close(energies * tau, norms, rtol=0.02, atol=0)


def test_extreme_logits_stay_finite():
    x = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], requires_grad=True)
    entropy, energy = losses.entropy(x, temperature=1), losses.free_energy(x, temperature=1)
    (entropy.sum() + energy.sum()).backward()
    assert entropy.tolist() == pytest.approx([0, math.log(3)])
    assert energy.tolist() == pytest.approx([1e4, math.log(3)])
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("function", [losses.entropy, losses.free_energy])
def test_gradients_dtypes_and_refusals(function, logits):
    assert torch.autograd.gradcheck(
        lambda x: function(x, temperature=2), logits(0, rows=3).requires_grad_()
    )
    half = logits(0).half()
    assert torch.equal(function(half, temperature=2), function(half.float(), temperature=2))
    assert function(torch.zeros(2, 3, 4), temperature=1).shape == (2, 3)
    with pytest.raises(UsageError, match=rf"losses\.{function.__name__}: temperature"):
        function(logits(0), temperature=0)
    with pytest.raises(Incompatible, match=rf"losses\.{function.__name__} needs logits"):
        function(torch.zeros(3, 1), temperature=1)
