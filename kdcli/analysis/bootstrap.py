"""Bootstrap over samples: how much a mean would move had other pictures been in the test set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kdcli.core import random

# drawn at a time: they stay in the cache, where all at once would take 80 MB for 10,000 samples
_DRAWS = 1 << 16


def resampled_means(values: Tensor, *, resamples: int, seed: int) -> Tensor:
    """Means of `values` over resamples of the n samples with replacement, [resamples,C] float64.

    All columns share the resamples, so that the difference of two columns is the paired bootstrap
    of their gap. Resample b depends on (seed, b, n) alone. Counting how often each sample is drawn
    turns the means into one matrix product.

    Args:
        values: [n,C] float64, one statistic of every sample a column.
        resamples: how many.
        seed: of the draws.
    """
    return resampled_each([values], resamples=resamples, seed=seed)[:, 0]


def resampled_each(values: Sequence[Tensor], *, resamples: int, seed: int) -> Tensor:
    """`resampled_means` of several tables [n,C], [resamples,m,C]: those of one depend on no other,
    not by a bit.
    """
    n = len(values[0])
    # [rows,n] @ [n,C]: a mean over a resample is the mean weighted by how often each was drawn
    return torch.cat(
        [
            torch.stack([counts @ each / n for each in values], dim=1)
            for counts in resampled_counts(n, resamples=resamples, seed=seed)
        ]
    )


def resampled_counts(n: int, *, resamples: int, seed: int) -> Iterator[Tensor]:
    """Counts of each of n samples in every resample, [rows,n] float64, some resamples at a time.

    For statistics that are no means. These are the resamples of `resampled_means` with the same
    seed.
    """
    stream = random.key(seed, "bootstrap")
    rows = max(1, _DRAWS // n)
    for first in range(0, resamples, rows):
        yield _counts(stream, first, min(rows, resamples - first), n)


def _counts(stream: int, first: int, rows: int, n: int) -> Tensor:
    """Counts of each of n samples in the resamples from first to first + rows, [rows,n] float64."""
    drawn = random.integers(stream, torch.arange(first * n, (first + rows) * n), n).view(rows, n)
    cells = drawn + torch.arange(rows)[:, None] * n  # of a [rows,n] table, laid flat
    return torch.bincount(cells.flatten(), minlength=rows * n).view(rows, n).double()
