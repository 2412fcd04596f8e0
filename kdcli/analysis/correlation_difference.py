"""Difference of two networks' logit correlation matrices (paper 003, Fig. 6).

It says how differently they relate classes. What the figure's matrices are the paper does not say.
Public notebooks that draw it take the mean logits of each class; the word correlation suggests
Pearson's, over samples. Both are here. Differs: logits are centred per sample first, because a
constant added to all logits of a sample changes no probability, yet it would change both matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from kdcli import losses
from kdcli.analysis.checks import STUDENT, TEACHER, check_pair
from kdcli.errors import UsageError
from kdcli.results.pair import CorrelationDifference
from kdcli.results.teacher import Matrix

_ROWS = 4096  # samples in float64 at a time
# a column whose variance is below this share of its mean square varies by rounding alone
_FLAT = 1e-24


def correlation_difference(
    z: Tensor,
    v: Tensor,
    targets: Tensor,
    *,
    of: Literal["class_mean", "pearson"] = "class_mean",
    standardised: bool = False,
    matrices: bool = True,
    student: str = STUDENT,
    teacher: str = TEACHER,
) -> CorrelationDifference:
    """Mean and largest entry of |M(teacher) - M(student)|, M a matrix [K,K] of a network's logits.

    Args:
        z: student logits [n,K].
        v: teacher logits [n,K], same samples.
        targets: [n] int64.
        of: "class_mean", M[c][k] the mean logit of class k over the samples of class c; "pearson",
            M[j][k] the correlation of the logits of classes j and k over samples.
        standardised: divide the centred logits of each sample by their standard deviation (K - 1)
            first; then neither network's scale matters, as it does not to its predictions.
        matrices: whether to return them; two of K = 1,000 take 40 MB of JSON.
        student: what messages call the student.
        teacher: what messages call the teacher.

    Raises:
        UsageError: another `of`.
        Incompatible, BadData: see `check_pair`. With two classes centred logits are one number,
            whose correlations are 1 and -1, and whose standardised form is a sign: these need
            three.
    """
    if of not in {"class_mean", "pearson"}:
        raise UsageError(f'the matrix must be of "class_mean" or "pearson", got {of!r}')
    check_pair(
        z,
        v,
        targets,
        student=student,
        teacher=teacher,
        classes=3 if of == "pearson" or standardised else 2,
    )
    classes = z.shape[1]
    make = class_means if of == "class_mean" else pearson
    first, second = (
        make(v, targets, standardised=standardised),
        make(z, targets, standardised=standardised),
    )
    used = (
        torch.bincount(targets, minlength=classes) > 0
        if of == "class_mean"
        else torch.ones(classes, dtype=torch.bool)
    )
    difference = (first - second).abs()
    largest = int(difference.argmax())
    return CorrelationDifference(
        of=of,
        standardised=standardised,
        n=len(targets),
        mean=difference[used].mean().item(),
        largest=difference.max().item(),
        place=(largest // classes, largest % classes),
        missing=tuple(torch.nonzero(~used)[:, 0].tolist()),
        teacher=_rows(first) if matrices else None,
        student=_rows(second) if matrices else None,
    )


def class_means(logits: Tensor, targets: Tensor, *, standardised: bool) -> Tensor:
    """Mean centred logits by true class, [K,K] float64; zeros for a class without samples.

    From logits [n,K] and targets [n].
    """
    classes = logits.shape[1]
    totals = torch.zeros(classes, classes, dtype=torch.float64)
    for x, y in _blocks(logits, targets, standardised=standardised):
        totals.index_add_(0, y, x)
    return totals / torch.bincount(targets, minlength=classes).clamp(min=1)[:, None]


def pearson(logits: Tensor, targets: Tensor, *, standardised: bool) -> Tensor:
    """Correlations over samples of the columns of centred logits [n,K], [K,K] float64.

    0 for a constant column, on the diagonal too.
    """
    classes, n = logits.shape[1], len(logits)
    mean, square = torch.zeros(2, classes, dtype=torch.float64)
    for x, _ in _blocks(logits, targets, standardised=standardised):
        mean += x.sum(dim=0) / n
        square += x.square().sum(dim=0) / n
    # the covariance [K,K], from a second pass: differences of raw sums would lose digits
    products = torch.zeros(classes, classes, dtype=torch.float64)
    for x, _ in _blocks(logits, targets, standardised=standardised):
        products.addmm_((x - mean).T, x - mean, alpha=1 / n)
    variance = products.diagonal()
    scale = variance.rsqrt().masked_fill(variance <= _FLAT * square, 0.0)
    return (products * scale * scale[:, None]).clamp(-1.0, 1.0)


def _blocks(
    logits: Tensor, targets: Tensor, *, standardised: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows [m,K] at a time, centred or standardised, in float64, with their targets [m]."""
    prepare = losses.standardize if standardised else losses.centre
    for start in range(0, len(logits), _ROWS):
        yield prepare(logits[start : start + _ROWS].double()), targets[start : start + _ROWS]


def _rows(matrix: Tensor) -> Matrix:
    return tuple(tuple(row) for row in matrix.tolist())
