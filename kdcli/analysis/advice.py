"""Scores that a teacher's answers get at a temperature, before any student is trained (kdcli.advice
says what each is).

With logits v of n images, q = softmax(v / tau) and the mean answer m_y to the images of class y:

    variety       S(q) / log K times CV_col                              paper 001's picture of what
    distillation passes on beyond_class  mean_i KL(q_i || m_y) = sum_y n_y / n S(m_y) - mean_i
    S(q_i) in_the_loss   tau^2 beyond_class truth         -mean_i ||q_i - onehot(y_i)||^2 shortness
    -mean_i std_k(v_i) / tau                               paper 000: the gaps follow the norms
    promise       -0.3 * 100 (1 - accuracy) - 0.6 log(effort)
                  effort of kd:   tau^2 (log K - mean_i S(q_i)), its loss for a student that answers
                  nothing, which grows with the
                                  length of the logits that the student has to reach
                  effort of skd:  1 + mean_i std_k(v_i) / tau: there lengths are equal, and sharp
                  answers are what is hard to follow

beyond_class is the mutual information of answer and image given the class. truth is the Brier
score, whose expectation is the mean squared distance of q to the true probabilities and a constant
(Menon et al. 2021, A statistical perspective on distillation, arXiv:2005.10419).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdcli.analysis.checks import rows_at_a_time
from kdcli.analysis.similarity import SimilarityAccumulator

METHODS = ("kd", "skd")
# points of a student's accuracy on fashion-mnist/advice, where they were fitted and rounded
PER_ERROR, PER_EFFORT = (
    0.3,
    0.6,
)
_NO_EFFORT = 1e-9  # of answers that are uniform: nothing to follow, and nothing to learn


def answer_scores(
    logits: Tensor,
    targets: Tensor,
    temperatures: Sequence[float],
    *,
    label: str = "the network",
    class_names: Sequence[str] | None = None,
) -> dict[tuple[str, float], dict[str, float]]:
    """Every score of SCORES for each method of METHODS at each temperature; larger is better.

    Args:
        logits: [n,K] of images that the network was not trained on; K at least 3, two samples or
            more of every class.
        targets: [n] int64.
        temperatures: each > 0.
        label, class_names: for messages.

    Raises:
        UsageError, Incompatible, BadData: as SimilarityAccumulator.
    """
    classes = logits.shape[1]
    accumulator = SimilarityAccumulator(classes, temperatures, label=label, class_names=class_names)
    accumulator.add(logits, targets)
    share = torch.bincount(targets, minlength=classes).double() / len(targets)
    errors = 100 * float((logits.argmax(dim=1) != targets).double().mean())
    found: dict[tuple[str, float], dict[str, float]] = {}
    for at in accumulator.result():
        tau, entropy = at.temperature, at.entropy.value
        beyond = (
            float((share * torch.special.entr(accumulator.mean_response(tau)).sum(dim=1)).sum())
            - entropy
        )
        brier, spread = _means(logits, targets, tau)
        alike = {
            "variety": at.relative_entropy.value * at.column_cv,
            "beyond_class": beyond,
            "in_the_loss": tau**2 * beyond,
            "truth": -brier,
            "shortness": -spread / tau,
        }
        efforts = {"kd": tau**2 * (math.log(classes) - entropy), "skd": 1 + spread / tau}
        for method in METHODS:
            promise = -PER_ERROR * errors - PER_EFFORT * math.log(max(efforts[method], _NO_EFFORT))
            found[method, tau] = {"promise": promise, **alike}
    return found


def _means(logits: Tensor, targets: Tensor, temperature: float) -> tuple[float, float]:
    """Mean Brier score of the answers and mean standard deviation over classes of the logits, a
    block of samples at a time.
    """
    brier, spread, rows = [], [], rows_at_a_time(logits)
    for v, y in zip(logits.split(rows), targets.split(rows), strict=True):  # type: ignore[no-untyped-call]
        x = v.double()
        q = (x / temperature).softmax(dim=1)
        brier.append(float(q.square().sum() - 2 * q.gather(1, y[:, None]).sum()) + len(y))
        spread.append(float(x.std(dim=1).sum()))
    n = len(targets)
    return math.fsum(brier) / n, math.fsum(spread) / n
