"""Calibration: does a network that says 90 % get 90 % right?

The error is torchmetrics'; the bins of the reliability diagram, which it does not hand out, are counted here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdcli.analysis.inputs import check_logits
from kdcli.results import CalibrationCurve

BINS = 15


def expected_calibration_error(probabilities: Tensor, targets: Tensor, *, bins: int = BINS) -> float:
    """Mean |accuracy - confidence| over equal bins of confidence, weighted by the bins' samples (Guo et al., On calibration of
    modern neural networks, ICML 2017, eq. 3). torchmetrics works in float32, and keeps confidences of exactly 1 in a bin
    of their own.

    Args:
        probabilities: [n,K].
        targets: [n] int64.
        bins: how many.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # here: it takes seconds to import

    error = multiclass_calibration_error(
        probabilities, targets, num_classes=probabilities.shape[1], n_bins=bins, norm="l1", validate_args=False
    )
    return float(error)


def reliability(logits: Tensor, targets: Tensor, bins: int = BINS) -> CalibrationCurve:
    """The reliability diagram of logits [n,K] at temperature 1 for targets [n].

    Bins are closed on the left, the last one on both sides.

    Raises:
        Incompatible, BadData: see `check_logits`.
    """
    check_logits(logits, targets)
    probabilities = logits.double().softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    edges = torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    return CalibrationCurve(
        ece=expected_calibration_error(probabilities, targets, bins=bins),
        edges=tuple(edges.tolist()),
        confidence=_means(place, confidence, count),
        accuracy=_means(place, (predicted == targets).double(), count),
        count=tuple(count.tolist()),
    )


def _means(place: Tensor, values: Tensor, count: Tensor) -> tuple[float | None, ...]:
    totals = torch.bincount(place, weights=values, minlength=len(count)).tolist()
    return tuple(total / size if size else None for total, size in zip(totals, count.tolist(), strict=True))
