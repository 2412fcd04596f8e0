"""Bootstrap means: the same for the same seed, drawn evenly, and as wide as statistics says."""

from __future__ import annotations

import pytest
import torch

from kdcli.analysis import bootstrap
from kdcli.analysis.bootstrap import resampled_means
from kdcli.core import random


def sample(n, columns=1):
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_means_are_those_of_the_samples_drawn():
    values = sample(7, 3)
    drawn = random.integers(random.key(5, "bootstrap"), torch.arange(20 * 7), 7).view(20, 7)
    torch.testing.assert_close(
        resampled_means(values, resamples=20, seed=5), values[drawn].mean(dim=1)
    )


def test_a_seed_settles_the_means_and_the_number_drawn_at_a_time_does_not(monkeypatch):
    values = sample(50, 2)
    first = resampled_means(values, resamples=40, seed=1)
    monkeypatch.setattr(bootstrap, "_DRAWS", 120)
    torch.testing.assert_close(resampled_means(values, resamples=40, seed=1), first)
    assert not torch.equal(resampled_means(values, resamples=40, seed=2), first)


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    resampled_means(sample(10), resamples=5, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("n", [100, 1600])
def test_means_spread_by_the_standard_error(n):
    values = sample(n)
    means = resampled_means(values, resamples=2000, seed=0)
    assert means.std().item() == pytest.approx(values.std(correction=0).item() / n**0.5, rel=0.07)
    assert means.mean().item() == pytest.approx(
        values.mean().item(), abs=5 * values.std().item() / (2000 * n) ** 0.5
    )
