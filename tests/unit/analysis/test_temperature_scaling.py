"""Temperature scaling: the minimum of the likelihood loss, before and after, its edges, folds that
have not seen their samples, refusals.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from kdcli.analysis import temperature_scaling as module
from kdcli.analysis.calibration import reliability
from kdcli.analysis.temperature_scaling import cross_fitted, fit_temperature
from kdcli.core import random
from kdcli.errors import BadData, Incompatible, UsageError
from tests.unit.analysis.test_rescaling import draw, flat, spoiled

N, K = 300, 5


def answers(n=N, seed=0, temperature=3.0, classes=K):
    """Logits whose true temperature is given: labels are drawn from softmax(z / temperature)."""
    z = draw(n, classes, seed=seed, scale=6.0)
    y = torch.multinomial(
        (z / temperature).softmax(1), 1, generator=torch.Generator().manual_seed(seed + 1000)
    )[:, 0]
    return z, y


def loss(z, y, temperature):
    """Mean negative log-likelihood, with loops."""
    total = 0.0
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        top = max(row)
        total += (
            math.log(sum(math.exp((x - top) / temperature) for x in row))
            - (row[label] - top) / temperature
        )
    return total / len(y)


@pytest.mark.parametrize("start", [1.0, 0.01, 1000.0])
def test_no_other_temperature_has_a_smaller_loss(start, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 64)
    z, y = answers()
    fit = fit_temperature(z, y, start=start)
    assert fit.edge is None
    b = torch.tensor(1 / fit.temperature, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(z * b, y).backward()
    assert b.grad.item() == pytest.approx(0, abs=1e-10)
    grid = [fit.temperature * 1.2**step for step in range(-20, 21)]
    assert min(grid, key=lambda temperature: loss(z, y, temperature)) == fit.temperature


def test_the_temperature_that_made_the_labels_is_found():
    assert fit_temperature(*answers(6000)).temperature == pytest.approx(3.0, rel=0.05)
    assert fit_temperature(*answers(6000, temperature=0.5)).temperature == pytest.approx(
        0.5, rel=0.1
    )


def test_it_goes_with_the_scale_and_with_nothing_else():
    z, y = answers()
    found = fit_temperature(z, y).temperature
    order, classes = (
        torch.randperm(N, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3, 0, 4, 2, 1]),
    )
    for scale in (1e-4, 7.0, 1e5):
        assert fit_temperature(scale * z, y).temperature == pytest.approx(scale * found, rel=1e-9)
    for other in (
        fit_temperature(z + draw(N, 1, seed=3), y),
        fit_temperature(z[order], y[order]),
        fit_temperature(z[:, classes], classes.argsort()[y]),
    ):
        assert other.temperature == pytest.approx(found, rel=1e-9)


def test_two_classes_agree_with_logistic_regression_without_intercept():
    from sklearn.linear_model import LogisticRegression

    z, y = answers(classes=2)
    margin = (z[:, 1] - z[:, 0])[:, None].numpy()
    theirs = (
        LogisticRegression(C=1e12, fit_intercept=False, tol=1e-12)
        .fit(margin, y.numpy())
        .coef_.item()
    )
    assert fit_temperature(z, y).temperature == pytest.approx(1 / theirs, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_without_a_minimum_it_stops_at_the_limit_and_says_which(scale):
    z = scale * draw(N, K)
    right, wrong = fit_temperature(z, z.argmax(1)), fit_temperature(z, z.argmin(1))
    spread = z.var(dim=1, correction=0).mean().sqrt().item()
    assert right == (pytest.approx(spread / 1000), "cold")
    assert wrong == (pytest.approx(spread * 1000), "hot")
    assert loss(z, z.argmin(1), wrong.temperature) == pytest.approx(math.log(K), abs=1e-2)
    nearly = z.argmax(1)
    nearly[0] = z[0].argmin()
    assert fit_temperature(z, nearly).edge is None


def test_loss_and_calibration_before_and_after_are_those_of_the_logits():
    z, y = answers()
    found = cross_fitted(z, y, folds=4, bootstrap=100, seed=2)
    part = random.permutation(random.key(2, "calibration folds"), N) % 4
    scaled = z / torch.tensor(found.folds, dtype=z.dtype)[part][:, None]
    assert found.nll_before.value == pytest.approx(loss(z, y, 1.0), abs=1e-9)
    assert found.nll_after.value == pytest.approx(loss(scaled, y, 1.0), abs=1e-9)
    assert found.nll_gain.value == pytest.approx(loss(z, y, 1.0) - loss(scaled, y, 1.0), abs=1e-9)
    assert found.ece_before == pytest.approx(reliability(z, y).ece, abs=1e-9)
    assert found.ece_after == pytest.approx(reliability(scaled, y).ece, abs=1e-9)
    assert found.ece_after < found.ece_before / 2
    assert found.nll_gain.low > 0
    for estimate in (found.nll_before, found.nll_after, found.nll_gain):
        assert estimate.low < estimate.value < estimate.high


def test_each_fold_is_scaled_by_what_the_others_say():
    z, y = answers()
    found = cross_fitted(z, y, folds=4, bootstrap=10, seed=2)
    part = random.permutation(random.key(2, "calibration folds"), N) % 4
    assert torch.bincount(part).tolist() == [75] * 4
    total, scaled = 0.0, torch.empty_like(z)
    for fold in range(4):
        temperature = fit_temperature(z[part != fold], y[part != fold]).temperature
        assert found.folds[fold] == pytest.approx(temperature, rel=1e-9)
        scaled[part == fold] = z[part == fold] / temperature
        total += loss(z[part == fold], y[part == fold], temperature) * 75
    assert found.nll_after.value == pytest.approx(total / N, abs=1e-9)
    assert found.ece_after == pytest.approx(reliability(scaled, y).ece, abs=1e-9)
    assert found.temperature == pytest.approx(sum(sorted(found.folds)[1:3]) / 2)
    assert (found.n, found.fitted_on) == (N, 225)
    assert cross_fitted(z[:-1], y[:-1], folds=4, bootstrap=10).fitted_on == 224


def test_a_fold_cannot_learn_from_its_own_samples():
    z, y = answers()
    found = cross_fitted(z, y, folds=N, bootstrap=1)
    assert found.nll_after.value >= loss(z, y, fit_temperature(z, y).temperature)
    assert len(set(found.folds)) > N / 2


def test_a_seed_settles_the_folds():
    z, y = answers()
    assert flat(cross_fitted(z, y, bootstrap=10)) == flat(cross_fitted(z, y, bootstrap=10))
    assert cross_fitted(z, y, bootstrap=10).folds != cross_fitted(z, y, bootstrap=10, seed=1).folds


def test_a_perfect_network_is_told_as_such():
    z = draw(N, K)
    found = cross_fitted(z, z.argmax(1), bootstrap=10)
    assert (found.edge, found.nll_after.value, found.ece_after) == (
        "cold",
        pytest.approx(0, abs=0.02),
        pytest.approx(0, abs=0.02),
    )
    assert all(math.isfinite(number) for number in flat(found))
    assert dataclasses.replace(found).folds == found.folds


@pytest.mark.parametrize(
    ("z", "y", "error", "words"),
    [
        (
            spoiled(draw(9, K), 3),
            torch.arange(9) % K,
            BadData,
            "net are not finite for 1 of 9 samples, first for sample 3",
        ),
        (torch.ones(9, K), torch.arange(9) % K, BadData, "net are constant"),
        (draw(9, 1), torch.zeros(9).long(), Incompatible, "net has 1 class"),
        (draw(9, K), torch.arange(8) % K, Incompatible, "net has logits of shape"),
    ],
)
def test_what_every_fit_refuses(z, y, error, words):
    for call in (
        lambda: fit_temperature(z, y, label="net"),
        lambda: cross_fitted(z, y, label="net"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_what_else_is_refused():
    z, y = answers(20)
    with pytest.raises(UsageError, match="greater than 0, got 0"):
        fit_temperature(z, y, start=0)
    for folds in (1, 21):
        with pytest.raises(UsageError, match=f"at most the 20 samples, got {folds}"):
            cross_fitted(z, y, folds=folds)
    with pytest.raises(UsageError, match="resamples"):
        cross_fitted(z, y, bootstrap=0)
    flat_but_one = torch.ones(20, K, dtype=torch.float64)
    flat_but_one[4, 1] = 0.0
    with pytest.raises(BadData, match=r"\(all but fold \d\) are constant"):
        cross_fitted(flat_but_one, y)
