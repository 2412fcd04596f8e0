"""The reliability diagram and the confusion matrix, on cases small enough to count by hand."""

from __future__ import annotations

import math

import pytest
import torch

from kdcli.analysis.calibration import reliability
from kdcli.analysis.metrics import confusion
from kdcli.errors import BadData, Incompatible


def random_answers(n=400, classes=10, scale=2.0):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * scale
    targets = torch.where(
        torch.rand(n, generator=generator) < 0.5,
        logits.argmax(1),
        torch.randint(classes, (n,), generator=generator),
    )
    return logits, targets


def logit(p):
    return math.log(p / (1 - p))


def test_a_curve_counted_by_hand():
    confidences, right = (0.55, 0.65, 0.95, 0.97, 0.99), (True, False, True, True, False)
    logits = torch.tensor([[logit(p), 0.0] for p in confidences], dtype=torch.float64)
    curve = reliability(logits, torch.tensor([0 if hit else 1 for hit in right]), bins=10)
    assert curve.count == (0, 0, 0, 0, 0, 1, 1, 0, 0, 3)
    assert curve.edges == pytest.approx([k / 10 for k in range(11)])
    assert [curve.confidence[k] for k in (5, 6, 9)] == pytest.approx([0.55, 0.65, 0.97])
    assert [curve.accuracy[k] for k in (5, 6, 9)] == pytest.approx([1.0, 0.0, 2 / 3])
    assert all(
        curve.confidence[k] is None and curve.accuracy[k] is None for k in (0, 1, 2, 3, 4, 7, 8)
    )
    assert curve.ece == pytest.approx((0.45 + 0.65 + 3 * (0.97 - 2 / 3)) / 5, abs=1e-6)


@pytest.mark.parametrize("bins", [5, 15])
def test_the_error_is_torchmetrics_and_the_bins_explain_it(bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, targets = random_answers()
    curve = reliability(logits, targets, bins)
    theirs = float(
        multiclass_calibration_error(
            logits.softmax(1), targets, num_classes=10, n_bins=bins, norm="l1"
        )
    )
    assert curve.ece == pytest.approx(theirs, abs=1e-6)  # theirs is computed in float32
    parts = zip(curve.accuracy, curve.confidence, curve.count, strict=True)
    assert curve.ece == pytest.approx(
        sum(abs(a - c) * m for a, c, m in parts if m) / len(targets), abs=1e-12
    )
    assert sum(curve.count) == len(targets)


def test_logits_between_0_and_1_are_not_taken_for_probabilities():
    logits, targets = random_answers()
    small = logits.sigmoid()
    assert reliability(small, targets).ece == pytest.approx(
        reliability(small + 10, targets).ece, abs=1e-6
    )


def test_certainty_falls_into_the_last_bin():
    curve = reliability(torch.tensor([[100.0, 0.0], [0.0, 100.0]]), torch.tensor([0, 1]))
    assert curve.count == (0,) * 14 + (2,)
    assert curve.confidence[-1] == 1.0
    assert curve.ece == 0.0


def test_confusion_counts_true_by_predicted():
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 0])]
    assert confusion(logits, torch.tensor([0, 0, 1, 0]), 3) == ((2, 1, 0), (0, 1, 0), (0, 0, 0))


def test_confusion_is_torchmetrics():
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    logits, targets = random_answers()
    expected = multiclass_confusion_matrix(logits, targets, num_classes=10)
    assert torch.equal(torch.tensor(confusion(logits, targets, 10)), expected)


def test_unusable_logits_are_refused():
    with pytest.raises(Incompatible, match="predicts 3 classes, the data has 4"):
        confusion(torch.zeros(1, 3), torch.zeros(1).long(), 4)
    with pytest.raises(BadData, match="not finite"):
        reliability(torch.tensor([[math.nan, 0.0]]), torch.zeros(1).long())
