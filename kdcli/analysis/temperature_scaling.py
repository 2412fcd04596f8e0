"""Temperature scaling: calibration of a network whose logits are divided by one fitted number.

Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2: the temperature that
minimises the mean negative log-likelihood of softmax(z / T). It changes no prediction. Fit it on
other data than those that it is reported on: a temperature that has seen the samples makes their
likelihood look better than it is. `cross_fitted` is for when there is only a test set, and fits for
each part of it on the others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kdcli.analysis.bootstrap import resampled_means
from kdcli.analysis.calibration import answers, calibration_error
from kdcli.analysis.checks import check_logits, check_resamples, check_varied
from kdcli.core import random
from kdcli.errors import UsageError
from kdcli.results.intervals import Estimate
from kdcli.results.teacher import TemperatureScaling

Edge = Literal["cold", "hot"]

_ROWS = 2048  # samples in float64 at a time: 16 MB a copy for 1,000 classes
# T lies within this factor of the logits' spread: below, answers are certain; above, all classes
# are equal
_RANGE = 1e3
_PRECISION = 1e-11  # relative, of the inverse temperature
_NEWTON = 1e-6  # a step of Newton's method this small has squared, at the next, what error is left
_STEPS = 200  # never reached: halving the range takes 40


class Fit(NamedTuple):
    """The temperature with the least loss.

    edge: no temperature has it, and the limit of the range stands: "cold", every sample is
    classified correctly, so that the loss falls for ever as T goes to 0; "hot", the true class's
    logit is on average no larger than the others', so that it falls as T grows.
    """

    temperature: float
    edge: Edge | None


def fit_temperature(
    logits: Tensor, targets: Tensor, *, start: float = 1.0, label: str = "the network"
) -> Fit:
    """The temperature T that minimises the mean of -log softmax(z / T)_y.

    The loss is convex in b = 1 / T, with slope mean(<z>_b - z_y) and curvature mean Var_b(z), both
    under softmax(b z): Newton's method on the slope, halving the range where a step would leave it.
    T goes with the logits' scale: k z has k T.

    Args:
        logits: [n,K]. These are the samples to fit on, not those to report on.
        targets: [n] int64.
        start: a temperature to begin at; the result does not depend on it.
        label: what messages call the network.

    Raises:
        UsageError: start is not above 0.
        Incompatible, BadData: see `check_logits` and `check_varied`.
    """
    if not start > 0:
        raise UsageError(f"the first temperature must be a number greater than 0, got {start}")
    check_logits(logits, targets, label=label)
    check_varied(logits, label=label)
    return _fit(logits, targets, _survey(logits, targets), start)


def _fit(logits: Tensor, targets: Tensor, survey: _Survey, start: float) -> Fit:
    spread = survey.variance.mean().item() ** 0.5
    if not survey.wrong.any():
        return Fit(spread / _RANGE, "cold")
    if survey.others.mean().item() >= 0:
        return Fit(spread * _RANGE, "hot")
    low, high = 1 / (_RANGE * spread), _RANGE / spread
    b = min(max(1 / start, low), high)
    for _ in range(_STEPS):
        slope, curvature = _slope(logits, targets, b)
        low, high = (low, b) if slope > 0 else (b, high)
        step = b - slope / curvature if curvature > 0 else high
        step, enough = (step, _NEWTON) if low < step < high else ((low * high) ** 0.5, _PRECISION)
        b, moved = step, abs(step - b)
        if moved <= enough * b:
            break
    return Fit(1 / b, None)


def _relative(logits: Tensor, targets: Tensor) -> Iterator[Tensor]:
    """Logits less that of the true class, which is then 0: float64 [m,K], some rows at a time."""
    for first in range(0, len(logits), _ROWS):
        x = logits[first : first + _ROWS].double()
        yield x - x.gather(1, targets[first : first + _ROWS, None])


class _Survey(NamedTuple):
    """Statistics of n samples that tell before any fit whether there is a minimum, [n] each.

    The mean of `others` over samples is the slope of the loss at 1 / T = 0.
    """

    variance: Tensor  # of the logits
    others: Tensor  # mean of the logits less the true class's
    wrong: Tensor  # bool: another class has a larger logit

    def of(self, samples: Tensor) -> _Survey:
        """The statistics of some of the samples, by mask [n]."""
        return _Survey(*(column[samples] for column in self))


def _survey(logits: Tensor, targets: Tensor) -> _Survey:
    parts = [
        _Survey(x.var(dim=1, correction=0), x.mean(dim=1), x.amax(dim=1) > 0)
        for x in _relative(logits, targets)
    ]
    return _Survey(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _slope(logits: Tensor, targets: Tensor, b: float) -> tuple[float, float]:
    """First and second derivative of the mean loss (nats) in b = 1 / T."""
    slope = curvature = 0.0
    for x in _relative(logits, targets):
        p = (x * b).softmax(dim=1)
        mean = (p * x).sum(dim=1)  # <z>_b - z_y of each sample, [m]
        slope += mean.sum().item()
        curvature += (p * (x - mean[:, None]).square()).sum().item()
    return slope / len(logits), curvature / len(logits)


def cross_fitted(
    logits: Tensor,
    targets: Tensor,
    *,
    folds: int = 5,
    bootstrap: int = 1000,
    seed: int = 0,
    label: str = "the network",
) -> TemperatureScaling:
    """Calibration before and after scaling each part of the samples by what the others fit.

    So no sample is scaled by a temperature that has seen it. The temperature reported is the median
    over the parts.

    Args:
        logits: [n,K].
        targets: [n] int64.
        folds: how many parts, drawn at random by position.
        bootstrap: resamples behind the intervals of the likelihoods.
        seed: of the parts and the resamples.
        label: what messages call the network.

    Raises:
        UsageError: fewer than two folds or samples for them, or no resamples.
        Incompatible, BadData: see `check_logits` and `check_varied`.
    """
    check_resamples(bootstrap)
    check_logits(logits, targets, label=label)
    check_varied(logits, label=label)
    if not 2 <= folds <= len(logits):
        raise UsageError(
            f"the number of folds must be at least 2 and at most the {len(logits)} samples, "
            f"got {folds}",
            hint="5 is usual",
        )
    part = random.permutation(random.key(seed, "calibration folds"), len(logits)) % folds
    survey, start, fits = _survey(logits, targets), 1.0, []
    temperatures = torch.empty(len(logits), dtype=torch.float64)
    for fold in range(folds):
        others = part != fold
        check_varied(logits[others], label=f"{label} (all but fold {fold + 1})")
        fits.append(_fit(logits[others], targets[others], survey.of(others), start))
        start = fits[-1].temperature
        temperatures[~others] = start
    return _report(
        logits,
        targets,
        temperatures,
        _middle(fits),
        fitted_on=len(logits) + -len(logits) // folds,
        resamples=bootstrap,
        seed=seed,
        fits=fits,
    )


def _middle(fits: Sequence[Fit]) -> Fit:
    """The median of the temperatures, with the first edge that a fold met."""
    edges = [fit.edge for fit in fits if fit.edge]
    return Fit(statistics.median(fit.temperature for fit in fits), edges[0] if edges else None)


def _report(
    logits: Tensor,
    targets: Tensor,
    temperatures: Tensor,
    fit: Fit,
    *,
    fitted_on: int,
    resamples: int,
    seed: int,
    fits: Sequence[Fit] = (),
) -> TemperatureScaling:
    before, after = answers(logits, targets), answers(logits, targets, temperatures)
    losses = torch.stack((-before.log_p, -after.log_p, after.log_p - before.log_p), dim=1)
    bounds = torch.tensor((0.025, 0.975), dtype=torch.float64)
    low, high = torch.quantile(
        resampled_means(losses, resamples=resamples, seed=seed), bounds, dim=0
    ).tolist()
    estimates = [
        Estimate(*each) for each in zip(losses.mean(dim=0).tolist(), low, high, strict=True)
    ]
    return TemperatureScaling(
        temperature=fit.temperature,
        edge=fit.edge,
        n=len(logits),
        fitted_on=fitted_on,
        nll_before=estimates[0],
        nll_after=estimates[1],
        nll_gain=estimates[2],
        ece_before=calibration_error(before.confidence, before.correct),
        ece_after=calibration_error(after.confidence, after.correct),
        folds=tuple(each.temperature for each in fits),
    )
