"""Gradient rescaling by distillation, and nearness of a student's features to class weights.

Two propositions of paper 002 (Tang et al., Understanding and improving knowledge distillation,
arXiv:2002.03532), measured. Prop. 2: distillation multiplies the gradient of cross-entropy by a
factor that is larger, on average, where the teacher is surer of the label. Prop. 1: at the optimum,
the wrong classes that the teacher finds likelier have weights nearer to the features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdcli.analysis.bootstrap import resampled_means
from kdcli.analysis.checks import (
    STUDENT,
    TEACHER,
    check_finite,
    check_pair,
    check_resamples,
    check_temperatures,
)
from kdcli.analysis.correlation import correlations, spearman_rows
from kdcli.errors import Incompatible, UsageError
from kdcli.results.intervals import Estimate
from kdcli.results.pair import DistanceRanks, GradientRescaling, RescalingBin

# a sample whose label has all but this has no gradient that a ratio to it would tell anything about
LEAST_MISS = 1e-6
_ROWS = 2048  # samples in float64 at a time: 16 MB a copy for 1,000 classes


def _split(x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(p_t, 1 - p_t) of softmax(x [n,K]), each [n] float64.

    The second is summed over the other classes: subtraction would leave no digits of a small one.
    """
    parts = []
    for start in range(0, len(x), _ROWS):
        block, column = x[start : start + _ROWS].double(), label[start : start + _ROWS, None]
        total = block.logsumexp(1)
        others = block.scatter(1, column, -math.inf).logsumexp(1)
        parts.append(((block.gather(1, column)[:, 0] - total).exp(), (others - total).exp()))
    hit, miss = (torch.cat(column) for column in zip(*parts, strict=True))
    return hit, miss


def rescaling(
    z: Tensor,
    v: Tensor,
    targets: Tensor,
    slopes: Tensor,
    *,
    temperature: float,
    bins: int = 20,
    bootstrap: int = 1000,
    seed: int = 0,
    student: str = STUDENT,
    teacher: str = TEACHER,
) -> GradientRescaling:
    """The factor by which a loss rescales each sample's gradient at the label's logit, and its
    correlation with the teacher's confidence.

        w_t = D_t / d_t,   d_t = p_t - 1

    with D_t the gradient of the loss, d_t that of the cross-entropy, p_t at temperature 1. For kd
    it is ce_weight + weight tau (q_t - p_t(tau)) / (1 - p_t), paper 002's equation 3 times tau^2.
    Where D sums to 0 over the classes, as it does for every loss that no constant added to the
    logits changes, w_t is also the ratio of the sums over the wrong classes, as in Prop. 2.

    Differs from the paper: any loss, not only kd's.

    Args:
        z: student logits [n,K].
        v: teacher logits [n,K], same samples.
        targets: [n] int64, the labels t.
        slopes: [n] float64, D_t: n times the gradient of a mean over the n samples.
        temperature: tau > 0, of the confidence q_t.
        bins: most points of the curve; each has about as many samples, at least 10, and equal
            confidences are never parted.
        bootstrap: resamples behind the intervals.
        seed: of the resamples.
        student: what messages call the student.
        teacher: what messages call the teacher.

    Raises:
        UsageError: a temperature that is not above 0, no bins, or no resamples.
        Incompatible, BadData: see `check_pair`; slopes that are not one finite number a sample.
    """
    check_temperatures((temperature,))
    check_resamples(bootstrap)
    if bins < 1:
        raise UsageError(f"the number of bins must be at least 1, got {bins}")
    check_pair(z, v, targets, student=student, teacher=teacher)
    if slopes.shape != targets.shape:
        raise Incompatible(
            f"gradients of {student} have shape {list(slopes.shape)}, labels {list(targets.shape)}",
            hint="give one a sample",
        )
    check_finite(slopes[:, None], f"gradients of {student}")
    _, miss = _split(z, targets)
    kept = miss > LEAST_MISS
    w = -slopes.double()[kept] / miss[kept]
    confidence = _split(v.double() / temperature, targets)[0][kept]
    together = correlations(w, confidence, resamples=bootstrap, seed=seed)
    mean, negative = (w.mean().item(), (w < 0).double().mean().item()) if len(w) else (None, None)
    low, median, high = (
        torch.quantile(w, torch.tensor((0.01, 0.5, 0.99), dtype=torch.float64)).tolist()
        if len(w)
        else (None,) * 3
    )
    shown = (len(w), len(z) - len(w), mean, median, negative, low, high)
    return GradientRescaling(temperature, *shown, *together, _curve(w, confidence, bins))


def _curve(w: Tensor, confidence: Tensor, bins: int) -> tuple[RescalingBin, ...]:
    """Factors w [n] by the quantiles of confidence [n].

    By quantiles, because at a high temperature all confidences can lie in a hundredth of [0, 1].
    """
    if len(w) == 0:
        return ()
    shares = torch.linspace(0, 1, max(1, min(bins, len(w) // 10)) + 1, dtype=torch.float64)
    edges = torch.unique(torch.quantile(confidence, shares))
    place = torch.bucketize(confidence, edges[1:-1], right=True)
    found = []
    for number in torch.unique(place).tolist():
        inside = place == number
        low, median, high = torch.quantile(
            w[inside], torch.tensor((0.25, 0.5, 0.75), dtype=torch.float64)
        ).tolist()
        found.append(
            RescalingBin(
                int(inside.sum()),
                confidence[inside].mean().item(),
                w[inside].mean().item(),
                low,
                median,
                high,
            )
        )
    return tuple(found)


def distance_ranks(
    features: Tensor,
    head_weight: Tensor,
    v: Tensor,
    targets: Tensor,
    *,
    head_bias: Tensor | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    student: str = STUDENT,
    teacher: str = TEACHER,
) -> DistanceRanks:
    """Mean rank correlation of -|h - w_k|^2 with the teacher's q_k over the wrong classes k.

    Prop. 1 of paper 002 says that it is 1 at the optimum of a student whose |w_k| are equal. Ranks
    of q_k are those of the teacher's logits at every temperature, so the logits stand in, which do
    not underflow. With the bias, h and w_k are taken as [h, 1] and [w_k, b_k], as the paper's
    footnote has it.

    Args:
        features: h [n,D], the student's input to its last layer.
        head_weight: [K,D], the weight of the student's last layer.
        v: teacher logits [n,K].
        targets: [n] int64.
        head_bias: [K].
        bootstrap: resamples behind the interval.
        seed: of the resamples.
        student: what messages call the student.
        teacher: what messages call the teacher.

    Raises:
        UsageError: no resamples.
        Incompatible: shapes that do not fit each other, or fewer than three classes.
        BadData: see `check_logits`; features or weights that are not finite, named by sample or
            class.
    """
    check_resamples(bootstrap)
    check_pair(v, v, targets, student=teacher, teacher=teacher, classes=3)
    _check_head(features, head_weight, head_bias, v, student)
    weight = head_weight.double()
    # -|h - w_k|^2 = 2 h.w_k - offset_k - |h|^2; the bias adds (1 - b_k)^2 to the offset |w_k|^2
    offset = weight.square().sum(dim=1)
    if head_bias is not None:
        offset += (1 - head_bias.double()).square()
    parts = []
    for start in range(0, len(v), _ROWS):
        h, logits, label = (each[start : start + _ROWS] for each in (features, v, targets))
        near = 2 * h.double() @ weight.T - offset  # |h|^2 is the same for all classes of a sample
        parts.append(spearman_rows(_others(near, label), _others(logits, label)))
    each = torch.cat(parts)
    kept = each[~each.isnan()]
    return DistanceRanks(
        len(kept), len(each) - len(kept), _mean(kept, bootstrap, seed) if len(kept) else None
    )


def _check_head(
    features: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, student: str
) -> None:
    shapes = (features.shape, weight.shape, weight.shape[:1] if bias is None else bias.shape)
    if (
        features.ndim != 2
        or weight.ndim != 2
        or shapes != ((len(v), weight.shape[1]), (v.shape[1], features.shape[1]), (v.shape[1],))
    ):
        raise Incompatible(
            f"features {list(shapes[0])}, weight {list(shapes[1])} and bias "
            f"{list(shapes[2])} of the last layer of {student} do not fit "
            f"{len(v)} samples of {v.shape[1]} classes",
            hint="give [n, D], [K, D] and [K] of the network that answered the same samples",
        )
    check_finite(features, f"features of {student}")
    rows = weight if bias is None else torch.cat((weight, bias[:, None]), dim=1)
    check_finite(rows, f"last layer weights of {student}", rows="class")


def _others(x: Tensor, label: Tensor) -> Tensor:
    """The columns of x [n,K] but that of each row's label, [n,K-1]."""
    columns = torch.arange(x.shape[1] - 1, device=x.device)
    return x.gather(1, columns + (columns >= label[:, None]).long())


def _mean(values: Tensor, resamples: int, seed: int) -> Estimate:
    """The mean of values [n] with its 95 % percentile bootstrap interval."""
    means = resampled_means(values[:, None], resamples=resamples, seed=seed)[:, 0]
    low, high = torch.quantile(means, torch.tensor((0.025, 0.975), dtype=torch.float64)).tolist()
    return Estimate(values.mean().item(), low, high)
