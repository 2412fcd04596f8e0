"""The distillation hypothesis of paper 001 as a rule: what distilling a network amounts to.

Source: Vats and Crandall 2022, Controlling the quality of distillation in response-based network
compression, figures 2 and 10.
"""

from __future__ import annotations

import math
from itertools import product

from kdcli.results.teacher import ClassEffect, Effect, Hypothesis, SimilarityAt, Thresholds


def hypothesis(at: SimilarityAt) -> Hypothesis:
    """The verdict on a network: distillation, regularisation or label smoothing (figure 2).

    The paper draws a picture without numbers; the rule and the limits are ours, and both come back
    with the verdict. Row variance is no part of it: in the paper's own tables it is the same for
    the good and the bad teacher. Nor does entropy alone decide: label smoothing may have any. The
    verdicts by class say more than the one over all.

    Args:
        at: at the temperature to judge, the paper's 9 by default.
    """
    limits = Thresholds()
    scale = math.log(at.classes)  # the largest entropy of K classes, nats
    by_class = []
    for each in at.by_class:
        relative = each.entropy / scale
        by_class.append(
            ClassEffect(
                each.number,
                each.n,
                effect(relative, each.column_cv, limits),
                relative,
                each.column_cv,
            )
        )
    return Hypothesis(
        temperature=at.temperature,
        effect=effect(at.relative_entropy.value, at.column_cv, limits),
        relative_entropy=at.relative_entropy,
        column_cv=at.column_cv,
        column_cv_interval=at.column_cv_interval,
        thresholds=limits,
        settled=_settled(at, limits),
        by_class=tuple(by_class),
    )


def effect(relative_entropy: float, column_cv: float, limits: Thresholds) -> Effect:
    """The effect by the rule of Hypothesis. relative_entropy: entropy / log K."""
    if column_cv < limits.constant:
        return "label smoothing"
    if column_cv >= limits.varied and relative_entropy >= limits.entropy:
        return "distillation"
    return "regularisation"


def _settled(at: SimilarityAt, limits: Thresholds) -> bool | None:
    """True where all four corners of the two intervals get one verdict."""
    if at.column_cv_interval is None:
        return None
    entropies = (at.relative_entropy.low, at.relative_entropy.high)
    spreads = (at.column_cv_interval.low, at.column_cv_interval.high)
    return len({effect(e, c, limits) for e, c in product(entropies, spreads)}) == 1
