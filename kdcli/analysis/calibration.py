"""Calibration error and reliability diagram: does a network that says 90 % get 90 % right?

Counted here rather than by torchmetrics, which gives the error without the bins that the diagram
needs, works in float32, and takes longer to import than a small run takes to evaluate; it is what
the tests compare with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kdcli.analysis.checks import check_logits, rows_at_a_time
from kdcli.results.run import CalibrationCurve

BINS = 15


class Bins(NamedTuple):
    """Sums over the samples in each bin of confidence: [bins] float64, n int64."""

    n: Tensor
    confidence: Tensor
    correct: Tensor


class SampleAnswers(NamedTuple):
    """How n samples were answered, [n] each.

    confidence: the largest probability, float64. correct: whether that class is the true one, bool.
    log_p: log-probability of the true class, nats, float64.
    """

    confidence: Tensor
    correct: Tensor
    log_p: Tensor


def answers(logits: Tensor, targets: Tensor, temperatures: Tensor | float = 1.0) -> SampleAnswers:
    """How each sample was answered, from logits [n,K] and targets [n].

    A block of samples at a time, because a float64 copy of all logits may not fit.

    Args:
        temperatures: one a sample, [n], or one for all; each > 0.
    """
    divisors = torch.as_tensor(temperatures, dtype=torch.float64).expand(len(logits))
    parts, rows = [], rows_at_a_time(logits)
    for first in range(0, len(logits), rows):
        block = slice(first, first + rows)
        log_p = (logits[block].double() / divisors[block, None]).log_softmax(dim=1)
        largest, predicted = log_p.max(dim=1)
        y = targets[block]
        parts.append((largest.exp(), predicted == y, log_p.gather(1, y[:, None]).squeeze(1)))
    return SampleAnswers(*(torch.cat(column) for column in zip(*parts, strict=True)))


def bins_of(confidence: Tensor, correct: Tensor, bins: int = BINS) -> Bins:
    """The sums of equal bins of confidence [n], closed on the left, the last on both sides."""
    edges = torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=bins - 1)
    sums = (
        torch.bincount(place, weights=weights, minlength=bins)
        for weights in (confidence, correct.double())
    )
    return Bins(torch.bincount(place, minlength=bins), *sums)


def error_of(binned: Bins) -> float:
    """The calibration error of such sums."""
    # eq. 3: sum_b n_b / n |accuracy_b - confidence_b|, with accuracy_b = correct_b / n_b
    return float((binned.correct - binned.confidence).abs().sum() / binned.n.sum())


def calibration_error(confidence: Tensor, correct: Tensor, *, bins: int = BINS) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equal bins of confidence.

    Weighted by the bins' samples, in float64 (Guo et al., On calibration of modern neural networks,
    ICML 2017, eq. 3).

    Args:
        confidence: [n] float64, the largest probability of each sample.
        correct: [n] bool, whether the class that has it is the true one.
        bins: how many.
    """
    return error_of(bins_of(confidence, correct, bins))


def reliability(logits: Tensor, targets: Tensor, bins: int = BINS) -> CalibrationCurve:
    """The reliability diagram of logits [n,K] at temperature 1 for targets [n].

    Bins are closed on the left, the last one on both sides.

    Raises:
        Incompatible, BadData: see `check_logits`.
    """
    check_logits(logits, targets)
    confidence, correct, _ = answers(logits, targets)
    binned = bins_of(confidence, correct, bins)
    return CalibrationCurve(
        ece=error_of(binned),
        edges=tuple(torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64).tolist()),
        confidence=_means(binned.confidence, binned.n),
        accuracy=_means(binned.correct, binned.n),
        count=tuple(binned.n.tolist()),
    )


def _means(sums: Tensor, count: Tensor) -> tuple[float | None, ...]:
    """Means by bin; None for a bin without samples."""
    return tuple(
        total / size if size else None
        for total, size in zip(sums.tolist(), count.tolist(), strict=True)
    )
