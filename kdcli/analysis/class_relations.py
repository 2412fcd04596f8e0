"""Similarity of classes in a network: in its answers, and in the weights of its last layer.

Source: Tang et al. 2020, Understanding and improving knowledge distillation (paper 002), section
3.2 and figure 1: (a) and (b) the Pearson correlation of probabilities at a low and a higher
temperature, (c) after only the largest of each sample were kept, (d) the cosines of the weight
rows. The contrast between superclasses, the likeness of two matrices and the intervals are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kdcli import losses
from kdcli.analysis.checks import check_logits, check_temperatures
from kdcli.errors import BadData, Incompatible, UsageError
from kdcli.results.intervals import Interval
from kdcli.results.teacher import ClassMatrix, ClassRelations, Contrast, Likeness

_ROWS = 2048  # samples in float64 at a time
_CONSTANT = 1e-10  # a standard deviation below this share of the mean is rounding
_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True, eq=False)
class ResponseCorrelation:
    """Correlations R [K,K] float64 of a network's probabilities over n samples, from -1 to 1.

    top_k: how many of the largest probabilities of each sample were kept; None for all.
    """

    matrix: Tensor
    temperature: float
    top_k: int | None
    n: int


def response_correlation(
    logits: Tensor, temperature: float, *, top_k: int | None = None, label: str = "the network"
) -> ResponseCorrelation:
    """Pearson correlation over samples of the K probabilities of a network.

        R_jk = cov(q_j, q_k) / (sd(q_j) sd(q_k)),   q = softmax(v / tau)

    Goes through mean [K] and sum of products of deviations [K,K] in float64, joined block by block
    (Chan, Golub and LeVeque 1983): at high temperatures probabilities differ in their last digits,
    which raw sums of products would lose. A probability that is the same for all samples has zeros,
    on the diagonal too.

    Args:
        logits: [n,K] of any floating type, K at least 3, n at least 2.
        temperature: tau > 0.
        top_k: keep this many of the largest probabilities of each sample, and give the others an
            equal share of the rest (figure 1(c), `losses.kd_topk`); None keeps all.
        label: what messages call the network.

    Raises:
        UsageError: a temperature that is not positive, or a top_k below 1.
        Incompatible: fewer than three classes, or fewer than top_k.
        BadData: fewer than two samples, logits that are not finite, named by sample, or logits that
            are equal over the classes for every sample.
    """
    check_temperatures((temperature,))
    classes = logits.shape[-1]
    _check_classes(classes, label)
    if top_k is not None and top_k < 1:
        raise UsageError(
            f"the number of largest probabilities to keep must be at least 1, got {top_k}"
        )
    if top_k is not None and top_k > classes:
        raise Incompatible(
            f"the largest {top_k} probabilities were asked for, and {label} has {classes} classes"
        )
    if len(logits) < 2:
        raise BadData(
            f"correlations over samples of {label} take two samples, there are {len(logits)}"
        )
    check_logits(logits, torch.zeros(len(logits), dtype=torch.int64), label=label)
    mean = torch.zeros(classes, dtype=torch.float64, device=logits.device)
    products = torch.zeros(classes, classes, dtype=torch.float64, device=logits.device)
    n = 0
    for first in range(0, len(logits), _ROWS):
        block = logits[first : first + _ROWS].double()
        n = _join(mean, products, n, _probabilities(block, temperature, top_k))
    if bool((logits.amax(dim=1) == logits.amin(dim=1)).all()):
        raise BadData(
            f"logits of {label} are constant: every class has the same one, for each of {n} "
            "samples",
            hint=(
                "this network has learned nothing: train it, or look for dead units before "
                "its last layer"
            ),
        )
    return ResponseCorrelation(_correlations(products / n, mean), temperature, top_k, n)


def _probabilities(v: Tensor, temperature: float, top_k: int | None) -> Tensor:
    if top_k is None:
        return (v / temperature).softmax(dim=1)
    return losses.kd_topk(v, k=top_k, temperature=temperature)


def _join(mean: Tensor, products: Tensor, n: int, q: Tensor) -> int:
    """Takes probabilities q [m,K] into the mean [K] and the sum of products of deviations [K,K] of
    n samples, in place. A function of its own, so that nothing of a block outlives it.

    Returns: n + m.
    """
    own, m = q.mean(dim=0), len(q)
    step = own - mean
    q -= own
    products.addmm_(q.T, q).addr_(step, step, alpha=n * m / (n + m))
    mean += step * (m / (n + m))
    return n + m


def _correlations(covariance: Tensor, mean: Tensor) -> Tensor:
    """Of a covariance [K,K] around a mean [K]; zeros for what does not vary."""
    deviation = covariance.diagonal().sqrt()
    varies = deviation > _CONSTANT * mean
    scale = torch.where(varies, deviation, torch.inf)
    matrix = (covariance / scale / scale[:, None]).clamp_(-1.0, 1.0)
    return (matrix + matrix.T).div_(2).diagonal_scatter(varies.double())


def _check_classes(classes: int, label: str) -> None:
    if classes < 3:
        raise Incompatible(f"{label} has {classes} classes, and how classes relate shows from 3 on")


def weight_cosines(weight: Tensor, *, label: str = "the network") -> Tensor:
    """Cosines between the rows of the last layer's weight [K,D], [K,K] float64.

    Its bias is not used. A row of zeros has zeros, on the diagonal too (paper 002, figure 1(d)).

    Raises:
        Incompatible: not a matrix, or fewer than three rows.
        BadData: weights that are not finite; names the class.
    """
    if weight.ndim != 2:
        raise Incompatible(
            f"the last layer of {label} has weights of shape {list(weight.shape)}, not [K, D]"
        )
    _check_classes(len(weight), label)
    finite = torch.isfinite(weight).all(dim=1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise BadData(
            f"the last layer's weights of {label} are not finite, first for class {first}",
            hint="its training has diverged",
        )
    rows = weight.detach().double()
    norm = rows.square().sum(dim=1, keepdim=True).sqrt()
    directions = rows / norm.masked_fill(norm == 0, 1.0)
    return (
        (directions @ directions.T)
        .clamp_(-1.0, 1.0)
        .diagonal_scatter((norm > 0).double().squeeze(1))
    )


# ---- one number of a matrix, and its interval ----------------------------------------------------


class _Pairs(NamedTuple):
    """Sums of S quantities over pairs of different classes."""

    total: Tensor  # [S]: over all pairs
    of_class: Tensor  # [K,S]: over the pairs of each class

    @classmethod
    def of(cls, *terms: Tensor) -> _Pairs:
        """The sums of S symmetric matrices [K,K], without their diagonals."""
        rows = torch.stack([term.clone().fill_diagonal_(0.0).sum(dim=1) for term in terms], dim=1)
        return cls(rows.sum(dim=0) / 2, rows)  # each pair stands in two rows

    @property
    def without(self) -> Tensor:
        """The sums if one class were not there, for each class: [K,S]."""
        return self.total - self.of_class


def _jackknife(value: float, left_out: Tensor) -> Interval:
    """Normal 95 % interval from the values without each class, left_out [K].

    Arvesen's jackknife of a mean over pairs (1969, Jackknifing U-statistics): pairs share classes,
    so their number says nothing of how sure their mean is; the number of classes does.
    """
    n = len(left_out)
    half = _Z95 * ((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt().item()
    return Interval(value - half, value + half)


def contrast(matrix: Tensor, superclass: Tensor) -> Contrast | None:
    """Mean entry of a matrix [K,K] within superclasses minus across them.

    Over pairs of different classes.

    Args:
        matrix: symmetric.
        superclass: [K] int64.

    Returns:
        None where all classes are of one superclass, or each is of its own. The interval is None
        where a class could not be left out without that.

    Raises:
        Incompatible: not one superclass a class.
    """
    _check_superclass(superclass, len(matrix))
    superclass = superclass.to(matrix.device)
    within = (superclass[:, None] == superclass).double()
    matrix = matrix.double()
    sums = _Pairs.of(matrix * within, within, matrix * (1 - within), 1 - within)
    inside, pairs_inside, outside, pairs_outside = sums.total.tolist()
    if not (pairs_inside and pairs_outside):
        return None
    difference = inside / pairs_inside - outside / pairs_outside
    left = sums.without
    interval = None
    if bool((left[:, 1::2] > 0.5).all()):
        interval = _jackknife(difference, left[:, 0] / left[:, 1] - left[:, 2] / left[:, 3])
    counts = (round(pairs_inside), round(pairs_outside))
    return Contrast(inside / pairs_inside, outside / pairs_outside, difference, counts, interval)


def _check_superclass(superclass: Tensor, classes: int) -> None:
    if superclass.shape != (classes,):
        raise Incompatible(
            f"there are superclasses for {list(superclass.shape)} classes, and the network "
            f"has {classes}"
        )


def likeness(first: Tensor, second: Tensor) -> tuple[float | None, Interval | None]:
    """Pearson correlation between the entries of two symmetric matrices [K,K], and its interval.

    Over the pairs of different classes, with the jackknife over classes. None where one matrix has
    the same entry everywhere; interval None where it has once some class is left out, or with fewer
    than four classes.

    Raises:
        Incompatible: matrices of two sizes.
    """
    if first.shape != second.shape:
        raise Incompatible(
            f"matrices of {len(first)} and of {len(second)} classes cannot be compared"
        )
    x, y = (_centred(each.double()) for each in (first, second.to(first.device)))
    sums = _Pairs.of(torch.ones_like(x), x, y, x * x, y * y, x * y)
    value = _correlation(sums.total)
    if value.isnan():
        return None, None
    left = _correlation(sums.without)
    if len(x) < 4 or bool(left.isnan().any()):
        return value.item(), None
    interval = _jackknife(value.item(), left)
    return value.item(), Interval(max(-1.0, interval.low), min(1.0, interval.high))


def _centred(x: Tensor) -> Tensor:
    """A matrix [K,K] minus its mean over pairs: sums of squares then lose no digits."""
    return x - _Pairs.of(x).total / (len(x) * (len(x) - 1) / 2)


def _correlation(sums: Tensor) -> Tensor:
    """Pearson's correlation [...] from sums [...,6] of 1, x, y, x^2, y^2 and xy.

    NaN where x or y does not vary.
    """
    n, x, y, xx, yy, xy = sums.unbind(-1)
    # n times the variances
    vx, vy = xx - x * x / n, yy - y * y / n
    # entries are at most 1: less than this is rounding
    varies = (vx > 1e-20 * n) & (vy > 1e-20 * n)
    return (
        ((xy - x * y / n) / (vx * vy).clamp(min=1e-300).sqrt())
        .clamp(-1.0, 1.0)
        .masked_fill(~varies, torch.nan)
    )


# ---- all of it -----------------------------------------------------------------------------------


def class_order(classes: int, superclass: Tensor | None) -> tuple[int, ...]:
    """Class numbers, those of a superclass side by side.

    In class order within a superclass, and where there are none.

    Raises:
        Incompatible: not one superclass a class.
    """
    if superclass is None:
        return tuple(range(classes))
    _check_superclass(superclass, classes)
    return tuple(superclass.argsort(stable=True).tolist())


def class_relations(
    correlations: Sequence[ResponseCorrelation],
    *,
    weight: Tensor | None = None,
    superclass: Tensor | None = None,
    keep: bool = True,
    label: str = "the network",
) -> ClassRelations:
    """The matrices of answers and of weights, in the order of superclasses.

    With their contrasts, and how like the cosines each correlation is.

    Args:
        correlations: usually at a low and at a higher temperature, and one with a top_k.
        weight: of the last layer, [K,D]; None leaves out the cosines.
        superclass: [K] int64 where the data have one.
        keep: whether the K^2 entries come back too: with 1,000 classes a million numbers a matrix.
        label: what messages call the network.

    Raises:
        Incompatible: nothing to look at, or parts that are not of the same classes.
        BadData: see `weight_cosines`.
    """
    tables = [each.matrix for each in correlations]
    if weight is not None:
        tables.append(
            weight_cosines(weight, label=label).to(tables[0].device if tables else weight.device)
        )
    if not tables:
        raise Incompatible(
            f"neither responses nor weights of {label} were given: classes relate by one of them"
        )
    sizes = {len(table) for table in tables}
    if len(sizes) != 1:
        raise Incompatible(
            f"{label} has matrices of {sorted(sizes)} classes, and relations are of one set "
            "of classes"
        )
    order = class_order(sizes.pop(), superclass)
    sources = [*correlations, *([] if weight is None else [None])]
    return ClassRelations(
        order=order,
        superclass=None if superclass is None else tuple(superclass[list(order)].tolist()),
        matrices=tuple(
            _matrix(table, source, order=order, superclass=superclass, keep=keep)
            for table, source in zip(tables, sources, strict=True)
        ),
        likeness=()
        if weight is None
        else tuple(_likeness(tables, position) for position in range(len(tables) - 1)),
    )


def _matrix(
    table: Tensor,
    source: ResponseCorrelation | None,
    *,
    order: Sequence[int],
    superclass: Tensor | None,
    keep: bool,
) -> ClassMatrix:
    """The record of one matrix; source: None for the cosines."""
    place = torch.tensor(order, device=table.device)
    values = tuple(tuple(row) for row in table[place][:, place].tolist()) if keep else None
    return ClassMatrix(
        of="weights" if source is None else "probabilities",
        temperature=None if source is None else source.temperature,
        top_k=None if source is None else source.top_k,
        n=None if source is None else source.n,
        values=values,
        contrast=None if superclass is None else contrast(table, superclass),
        zero_classes=tuple((table.diagonal() == 0).nonzero().flatten().tolist()),
    )


def _likeness(tables: Sequence[Tensor], position: int) -> Likeness:
    """The likeness of one table and the last, which is the cosines'."""
    value, interval = likeness(tables[position], tables[-1])
    classes = len(tables[-1])
    return Likeness(position, len(tables) - 1, value, classes * (classes - 1) // 2, interval)
