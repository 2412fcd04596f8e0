"""Confidence labels, similarity labels and the variance in response of one network.

Source: Vats and Crandall 2022, Controlling the quality of distillation in response-based network
compression (paper 001), section 3, tables 1 to 3. The paper shows rows and names the quantities;
the numbers that are made of them here are ours. Every variance is that of the population: the
spread of the samples at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdcli.analysis.checks import check_logits, check_temperatures
from kdcli.errors import BadData, Incompatible
from kdcli.results.intervals import Estimate, Interval
from kdcli.results.teacher import ClassSimilarity, SimilarityAt

# samples in float64 at a time: with 1,000 classes 16 MB a matrix, of which about six are alive at
# once
_ROWS = 2048
_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
_ALIKE = 3  # classes named as alike to a class


class Grouped:
    """Mean and sum of squared deviations of C columns by class, from blocks of samples.

    Blocks are joined by the update of Chan, Golub and LeVeque (1983, Algorithms for computing the
    sample variance), which loses no digits where a column hardly varies; a difference of raw sums
    would. mean, square: [K,C]; count: [K]; all float64.
    """

    def __init__(self, classes: int, columns: int, device: torch.device | None = None) -> None:
        self.count = torch.zeros(classes, dtype=torch.float64, device=device)
        self.mean = torch.zeros(classes, columns, dtype=torch.float64, device=device)
        self.square = torch.zeros_like(self.mean)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Takes in rows x [m,C] of classes y [m] int64."""
        count = torch.bincount(y, minlength=len(self.count)).double()
        mean = torch.zeros_like(self.mean).index_add_(0, y, x) / count.clamp(min=1)[:, None]
        self.square.index_add_(0, y, (x - mean[y]).square_())
        total = (self.count + count).clamp(min=1)
        step = mean.sub_(self.mean)
        self.square += step.square() * (self.count * count / total)[:, None]
        self.mean += step * (count / total)[:, None]
        self.count += count

    def variance(self) -> Tensor:
        """[K,C], of the population; 0 for a class without samples."""
        return self.square / self.count.clamp(min=1)[:, None]

    def overall(self) -> tuple[Tensor, Tensor]:
        """Mean [C] over all samples and its standard error [C]."""
        n = self.count.sum()
        mean = (self.count[:, None] * self.mean).sum(dim=0) / n
        between = (self.count[:, None] * (self.mean - mean).square()).sum(dim=0)
        return mean, ((self.square.sum(dim=0) + between) / (n - 1).clamp(min=1) / n).sqrt()


class _Labels(NamedTuple):
    """The response to a block of m samples, float64."""

    q: Tensor  # [m,K]: softmax(v / tau)
    r: Tensor  # [m,K]: q without the true class, scaled to sum 1; 0 at the true class
    scalars: Tensor  # [m,4]: confidence, entropy (nats), row_variance, similarity_entropy


def _labels(v: Tensor, y: Tensor, temperature: float) -> _Labels:
    """The labels of logits v [m,K] float64 with classes y [m]."""
    others = v.shape[1] - 1
    own = torch.arange(v.shape[1], device=v.device) == y[:, None]
    x = v / temperature
    q = x.softmax(dim=1)
    # q_k / (1 - q_y) would be 0/0 for a network that is sure
    r = x.masked_fill(own, -math.inf).softmax(dim=1)
    similarity = q.masked_fill(own, 0.0)
    deviation = (similarity - similarity.sum(dim=1, keepdim=True) / others).masked_fill_(own, 0.0)
    scalars = (
        q.gather(1, y[:, None]).squeeze(1),
        torch.special.entr(q).sum(dim=1),
        deviation.square_().sum(dim=1) / others,
        torch.special.entr(r).sum(dim=1) / math.log(others),
    )
    return _Labels(q, r, torch.stack(scalars, dim=1))


class _At:
    """Sums at one temperature: by class, moments of the scalars [K,4], of q and of r [K,K]; sums of
    squared influences of a sample on its class's column_variance and column_cv [K,2], from the
    second pass.
    """

    def __init__(self, classes: int, temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self.scalars = Grouped(classes, 4, device)
        self.q = Grouped(classes, classes, device)
        self.r = Grouped(classes, classes, device)
        self.influence = torch.zeros(classes, 2, dtype=torch.float64, device=device)

    def add(self, v: Tensor, y: Tensor) -> None:
        labels = _labels(v, y, self.temperature)
        self.scalars.add(labels.scalars, y)
        self.q.add(labels.q, y)
        self.r.add(labels.r, y)

    def column_variance(self) -> Tensor:
        """By class, [K]."""
        return _off_diagonal_mean(self.q.variance())

    def column_cv(self) -> Tensor:
        """By class, [K]. A label that is 0 for every sample of a class does not vary."""
        return _off_diagonal_mean(_ratio(self.r.variance().sqrt(), self.r.mean))

    def add_influence(self, v: Tensor, y: Tensor) -> None:
        """How much each sample moves its class's column_variance and column_cv, to first order (the
        influence function).
        """
        labels = _labels(v, y, self.temperature)
        variance = (labels.q - self.q.mean[y]).square_() - self.q.variance()[y]
        mean, spread = self.r.mean[y], self.r.variance()[y]
        deviation, deviations = labels.r - mean, spread.sqrt()
        cv = _ratio(deviation.square() - spread, 2 * deviations * mean) - _ratio(
            deviations * deviation, mean.square()
        )
        both = torch.stack([_others_mean(each, y) for each in (variance, cv)], dim=1)
        self.influence.index_add_(0, y, both.square())


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The ratio, and 0 where the denominator is 0."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)


def _off_diagonal_mean(x: Tensor) -> Tensor:
    """Row means [K] of x [K,K] without the diagonal."""
    return x.clone().fill_diagonal_(0.0).sum(dim=1) / (len(x) - 1)


def _others_mean(x: Tensor, y: Tensor) -> Tensor:
    """Row means [m] of x [m,K] without column y of each row."""
    return x.scatter(1, y[:, None], 0.0).sum(dim=1) / (x.shape[1] - 1)


def similarity(
    logits: Tensor,
    targets: Tensor,
    *,
    temperatures: Sequence[float] = (9.0,),
    label: str = "the network",
    class_names: Sequence[str] | None = None,
) -> tuple[SimilarityAt, ...]:
    """Describes the responses of a network at each temperature.

    Args:
        logits: [n,K] of any floating type, K at least 3.
        targets: [n] int64; every class has two samples or more.
        temperatures: each > 0. The paper shows 9.
        label: what messages call the network.
        class_names: K names for messages; numbers are used without.

    Raises:
        UsageError: a temperature that is not positive.
        Incompatible: fewer than three classes. Incompatible, BadData: see `check_logits`.
        BadData: a class with fewer than two samples, or logits that are equal over the classes for
            every sample.
    """
    found = similarity_and_responses(
        logits, targets, temperatures=temperatures, label=label, class_names=class_names
    )
    return tuple(at for at, _ in found)


def similarity_and_responses(
    logits: Tensor,
    targets: Tensor,
    *,
    temperatures: Sequence[float],
    label: str = "the network",
    class_names: Sequence[str] | None = None,
) -> list[tuple[SimilarityAt, Tensor]]:
    """The same, each with the mean q over the samples of each class, [K,K] float64: row y, column
    k.

    Memory: four [K,K] matrices of float64 a temperature, and some blocks of samples; never [n,K,K].
    """
    check_temperatures(temperatures)
    classes = logits.shape[-1]
    if classes < 3:
        raise Incompatible(
            f"{label} has {classes} classes, and similarity labels, those of all classes "
            "but the true one, say something from 3 on"
        )
    check_logits(logits, targets, label=label)

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(logits), _ROWS):
            yield logits[first : first + _ROWS].double(), targets[first : first + _ROWS]

    found = [_At(classes, temperature, logits.device) for temperature in temperatures]
    flat = True
    for v, y in blocks():
        flat = flat and bool((v.amax(dim=1) == v.amin(dim=1)).all())
        for at in found:
            at.add(v, y)
    _check_counts(found[0].scalars.count, class_names)
    if flat:
        raise BadData(
            f"logits of {label} are constant: every class has the same one, for "
            f"each of {len(logits)} samples",
            hint=(
                "this network has learned nothing: train it, or look for dead units before "
                "its last layer"
            ),
        )
    # how much each sample moves a class's spread needs the means of the first pass
    for v, y in blocks():
        for at in found:
            at.add_influence(v, y)
    return [(_similarity_at(at, len(logits), classes), at.q.mean) for at in found]


def _check_counts(count: Tensor, names: Sequence[str] | None) -> None:
    """Refuses classes [K] with fewer than two samples."""
    if bool((count < 2).any()):
        first = int((count < 2).nonzero()[0])
        name = first if names is None else f"{names[first]} ({first})"
        found = "no samples" if count[first] == 0 else "only one sample"
        raise BadData(
            f"class {name} has {found}, and variance within a class takes two; "
            f"{int((count < 2).sum())} of {len(count)} "
            "classes have fewer",
            hint="choose a split, or a larger part of it, with samples of every class",
        )


def _similarity_at(at: _At, n: int, classes: int) -> SimilarityAt:
    mean, error = at.scalars.overall()
    confidence, entropy, row_variance, similarity_entropy = map(
        _estimate, mean.tolist(), error.tolist()
    )
    scale = math.log(classes)
    errors = at.influence.sqrt() / at.q.count[:, None]  # [K,2]
    columns = torch.stack((at.column_variance(), at.column_cv()), dim=1)
    values = columns.mean(dim=0).tolist()
    overall = (errors.square().sum(dim=0).sqrt() / classes).tolist()
    intervals = [_interval(value, each) for value, each in zip(values, overall, strict=True)]
    return SimilarityAt(
        temperature=at.temperature,
        n=n,
        classes=classes,
        confidence=confidence,
        entropy=entropy,
        relative_entropy=Estimate(entropy.value / scale, entropy.low / scale, entropy.high / scale),
        row_variance=row_variance,
        column_variance=values[0],
        column_cv=values[1],
        similarity_entropy=similarity_entropy,
        by_class=_by_class(at, columns, errors),
        column_variance_interval=intervals[0],
        column_cv_interval=intervals[1],
    )


def _estimate(value: float, error: float) -> Estimate:
    """With a normal 95 % interval from a standard error."""
    return Estimate(value, value - _Z95 * error, value + _Z95 * error)


def _interval(value: float, error: float) -> Interval:
    """A normal 95 % interval of something that cannot be negative."""
    return Interval(max(0.0, value - _Z95 * error), value + _Z95 * error)


def _by_class(at: _At, columns: Tensor, errors: Tensor) -> tuple[ClassSimilarity, ...]:
    """columns: column_variance and column_cv [K,2]; errors: their standard errors."""
    labels = at.q.mean.clone().fill_diagonal_(-1.0)
    largest = labels.topk(min(_ALIKE, len(labels) - 1), dim=1)
    alike = zip(largest.indices.tolist(), largest.values.tolist(), strict=True)
    rows = zip(at.q.count.tolist(), at.scalars.mean.tolist(), columns.tolist(), alike, strict=True)
    column_errors = errors[:, 1].tolist()
    return tuple(
        ClassSimilarity(
            number=number,
            n=int(n),
            confidence=scalars[0],
            entropy=scalars[1],
            row_variance=scalars[2],
            column_variance=column[0],
            column_cv=column[1],
            similarity_entropy=scalars[3],
            alike=tuple(zip(*nearest, strict=True)),
            column_error=column_errors[number],
        )
        for number, (n, scalars, column, nearest) in enumerate(rows)
    )
