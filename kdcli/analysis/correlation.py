"""Correlation of values and of ranks over samples, with intervals, and of ranks row by row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.analysis.bootstrap import resampled_counts
from kdcli.results.intervals import Estimate

# values whose spread is below this share of the largest one differ by rounding alone
_FLAT = 1e-12


class Correlations(NamedTuple):
    """Correlations of two statistics over the same samples.

    None where either is constant, or where there are fewer than three samples.
    """

    pearson: Estimate | None
    spearman: Estimate | None


def ranks(x: Tensor) -> Tensor:
    """Ranks from 1 inside each row of x [n,m], [n,m] float64; equal values share a mean rank."""
    ordered, order = x.sort(dim=1)
    places = torch.arange(1.0, x.shape[1] + 1, dtype=torch.float64, device=x.device).expand(x.shape)
    found = torch.empty_like(places).scatter_(1, order, places)
    tied = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    x, ordered = x[tied], ordered[tied]
    found[tied] = (
        torch.searchsorted(ordered, x) + torch.searchsorted(ordered, x, right=True) + 1
    ).double() / 2
    return found


def spearman_rows(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation of row i of x [n,m] with row i of y [n,m], [n] float64.

    NaN where one of the rows is constant.
    """
    x, y = ranks(x), ranks(y)
    x, y = x - x.mean(dim=-1, keepdim=True), y - y.mean(dim=-1, keepdim=True)
    return _cosine((x * y).sum(-1), x.square().sum(-1), y.square().sum(-1))


def correlations(x: Tensor, y: Tensor, *, resamples: int, seed: int) -> Correlations:
    """Pearson's and Spearman's correlation of x and y over n samples, with 95 % intervals.

    Percentile bootstrap over samples. Ranks are taken anew in every resample, as they would be in
    another test set: keeping those of the whole set makes the interval wrong. That needs no sort,
    only running sums of how often each sample was drawn.

    Args:
        x: [n] float64, finite.
        y: [n] float64, finite.
        resamples: how many; both correlations share them.
        seed: of the resamples.
    """
    if len(x) < 3 or _flat(x) or _flat(y):
        return Correlations(None, None)
    moments, first, second = _moments(x, y), _Ranking.of(x), _Ranking.of(y)
    pearson, spearman = [], []
    for counts in resampled_counts(len(x), resamples=resamples, seed=seed):
        pearson.append(_pearson(counts, moments))
        spearman.append(_spearman(counts, first, second))
    whole = torch.ones(1, len(x), dtype=torch.float64)
    return Correlations(
        _estimate(_pearson(whole, moments), torch.cat(pearson)),
        _estimate(_spearman(whole, first, second), torch.cat(spearman)),
    )


def _flat(x: Tensor) -> bool:
    """True where values differ by rounding alone."""
    return bool(x.max() - x.min() <= _FLAT * x.abs().max())


def _cosine(product: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """A cosine, product / sqrt(first * second), inside [-1, 1] whatever the rounding.

    NaN where first or second is not above 0.
    """
    ratio = (product / (first.clamp(min=0).sqrt() * second.clamp(min=0).sqrt())).clamp(-1.0, 1.0)
    return ratio.masked_fill((first <= 0) | (second <= 0), float("nan"))


def _moments(x: Tensor, y: Tensor) -> Tensor:
    """Columns x, y, x^2, y^2, xy of both in standard units, [n,5].

    Without standard units squares of small variations would round away.
    """
    x, y = ((each - each.mean()) / each.std(correction=0) for each in (x, y))
    return torch.stack((x, y, x * x, y * y, x * y), dim=1)


def _pearson(counts: Tensor, moments: Tensor) -> Tensor:
    """Pearson's correlation in each resample, [rows]. counts [rows,n], moments [n,5]."""
    x, y, xx, yy, xy = (counts @ moments / counts.shape[1]).unbind(dim=1)  # means in a resample
    return _cosine(xy - x * y, xx - x * x, yy - y * y)


class _Ranking(NamedTuple):
    """The order of n samples by their values, each column [n] int64."""

    order: Tensor  # positions of the samples, smallest value first
    below: Tensor  # how many have a smaller value than this sample
    through: Tensor  # how many have no larger one

    @classmethod
    def of(cls, x: Tensor) -> _Ranking:
        ordered, order = x.sort()
        return cls(
            order, torch.searchsorted(ordered, x), torch.searchsorted(ordered, x, right=True)
        )

    def centred(self, counts: Tensor) -> Tensor:
        """Ranks of the samples in resamples with counts [rows,n], less their mean, [rows,n]."""
        # [rows,n+1]: how many draws the i smallest samples have together
        drawn = functional.pad(counts[:, self.order].cumsum(dim=1), (1, 0))
        # a rank is (below + through + 1) / 2 and the mean of all is (n + 1) / 2
        return (drawn[:, self.below] + drawn[:, self.through] - counts.shape[1]) / 2


def _spearman(counts: Tensor, first: _Ranking, second: _Ranking) -> Tensor:
    """Spearman's correlation in each resample, [rows]. counts [rows,n]."""
    x, y = first.centred(counts), second.centred(counts)
    weighted = counts * x
    return _cosine((weighted * y).sum(1), (weighted * x).sum(1), (counts * y * y).sum(1))


def _estimate(whole: Tensor, resampled: Tensor) -> Estimate:
    """A correlation with its 95 % percentile interval over resamples.

    Resamples in which one side happened to be constant are left out; if that is all of them,
    nothing is known, and the interval is [-1, 1].
    """
    low, high = torch.nanquantile(
        resampled, torch.tensor((0.025, 0.975), dtype=torch.float64)
    ).tolist()
    return Estimate(whole.item(), *((low, high) if low == low else (-1.0, 1.0)))  # noqa: PLR0124  # NaN alone differs from itself
