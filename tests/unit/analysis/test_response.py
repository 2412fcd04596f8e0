"""Entropy and free energy by sample, and the second order of their gaps: which factor is right, and
when it may be used.
"""

from __future__ import annotations

import math

import pytest
import torch

from kdcli.analysis.energy import divergence, energies, in_range, second_order


def gaussian(n=50, classes=100, scale=1.0, seed=0):
    return (
        torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * scale
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_energies_are_their_definitions(temperature):
    logits = gaussian(5, 6, 3.0) + 2.0
    found = energies(logits, (temperature,))
    for i, row in enumerate(logits.tolist()):
        mean = sum(row) / len(row)
        weights = [math.exp((value - mean) / temperature) for value in row]
        p = [weight / sum(weights) for weight in weights]
        assert found.entropy[i, 0].item() == pytest.approx(
            -sum(share * math.log(share) for share in p), abs=1e-12
        )
        assert found.free_energy[i, 0].item() == pytest.approx(
            temperature * math.log(sum(weights)), abs=1e-12
        )
        assert found.square_norm[i].item() == pytest.approx(
            sum((value - mean) ** 2 for value in row), abs=1e-12
        )


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_free_energy_is_mean_logit_plus_temperature_times_entropy(temperature):
    logits = gaussian(scale=5.0)
    centred = logits - logits.mean(dim=1, keepdim=True)
    mean_logit = ((centred / temperature).softmax(dim=1) * centred).sum(dim=1)
    found = energies(logits, (temperature,))
    torch.testing.assert_close(
        found.free_energy[:, 0], mean_logit + temperature * found.entropy[:, 0], rtol=0, atol=1e-12
    )


def test_blocks_of_rows_leave_no_seam():
    logits = gaussian(5000, 3)
    whole, tail = energies(logits, (1.0, 2.0)), energies(logits[4090:4100], (1.0, 2.0))
    assert whole.entropy.shape == (5000, 2)
    for mine, theirs in zip(whole, tail, strict=True):
        assert torch.equal(mine[4090:4100], theirs)


def test_divergence_is_kl_of_teacher_to_student_without_the_square_of_tau():
    z, v = gaussian(4100, 5, seed=1), gaussian(4100, 5, 2.0, seed=2)
    p, q = (z / 4).softmax(1), (v / 4).softmax(1)
    expected = (q * (q / p).log()).sum(1).mean().item()
    assert divergence(z, v, (4.0, 1.0))[0] == pytest.approx(expected, abs=1e-12)
    assert divergence(v, v, (4.0,)) == (0.0,)


@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_the_factor_of_theorem_1_is_a_half_and_that_of_theorem_2_too(classes):
    """G * K * tau^2 / (|v|^2 - |z|^2) tends to 1/2 as the temperature grows. The paper prints 1 for
    entropy.
    """
    student, teacher = gaussian(200, classes, 1.0, seed=1), gaussian(200, classes, 3.0, seed=2)
    constants = []
    for temperature in (16.0, 256.0):
        z, v = energies(student, (temperature,)), energies(teacher, (temperature,))
        difference = (v.square_norm - z.square_norm).mean()
        entropy = (z.entropy - v.entropy).mean() * classes * temperature**2 / difference
        free_energy = (v.free_energy - z.free_energy).mean() * classes * temperature / difference
        constants.append((entropy.item(), free_energy.item()))
    assert constants[-1] == pytest.approx((0.5, 0.5), abs=2e-3)
    assert all(abs(constant - 1.0) > 0.4 for pair in constants for constant in pair)


def test_second_order_is_the_corrected_formula():
    student, teacher = gaussian(classes=10, seed=1), gaussian(classes=10, scale=3.0, seed=2)
    z, v = energies(student, (256.0,)), energies(teacher, (256.0,))
    found = second_order(z, v, classes=10, temperature=256.0)
    assert (z.entropy - v.entropy).mean().item() == pytest.approx(found.entropy, rel=0.02)
    assert (v.free_energy - z.free_energy).mean().item() == pytest.approx(
        found.free_energy, rel=0.02
    )
    assert found.free_energy == pytest.approx(256.0 * found.entropy)
    assert not found.negligible


def test_equal_norms_have_no_second_order_but_still_a_gap():
    """Same norm, other shape: one logit up against one logit down. The third cumulant is what is
    left.
    """
    up = torch.zeros(1, 10, dtype=torch.float64)
    up[0, 0] = 8.0
    z, v = energies(-up, (4.0,)), energies(up.float() * (1 + 1e-7), (4.0,))
    assert second_order(z, v, classes=10, temperature=4.0).negligible
    assert abs((z.entropy - v.entropy).item()) > 0.05


def test_in_range_follows_the_temperature():
    # mean |v|^2 about 900, so the bound is at tau of 6.7
    teacher = gaussian(classes=100, scale=3.0)
    assert not in_range(energies(teacher, (4.0,)), classes=100, temperature=4.0)
    assert in_range(energies(teacher, (16.0,)), classes=100, temperature=16.0)
