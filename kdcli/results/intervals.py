"""A number and how sure it is: what every other type of result is made of. Standard library
only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdcli.errors import UsageError

MOST_RESAMPLES = 1_000_000  # behind a bootstrap interval: more show nothing, and take hours

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval. How that was found is told by the type that holds it, in one
    of these ways:

    bootstrap, percentile over samples: entropies, free energies and their gaps, correlations of a
    pair, likelihood losses.
    normal: means over samples of a network's similarity labels, and, after linearisation, a spread;
    a silhouette. jackknife, normal, over classes or minibatches: contrasts and likenesses of
    matrices, CKA, which have an `Interval`. Not a confidence interval: of a latency the quartiles
    of its repeats.
    """

    value: float
    low: float
    high: float


def wilson(hits: int, n: int) -> Interval:
    """The 95 % score interval of a proportion (Wilson, JASA 1927); honest near 0 and 1, where
    networks live.
    """
    share, z2 = hits / n, _Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Interval(0.0 if hits == 0 else middle - half, 1.0 if hits == n else middle + half)


def check_resamples(count: int) -> None:
    """Refuses a number of resamples that no interval can be made of, or needs.

    Raises:
        UsageError: it is none, or more than a million.
    """
    if not 1 <= count <= MOST_RESAMPLES:
        raise UsageError(
            f"--bootstrap takes from 1 to {MOST_RESAMPLES:,} resamples, got {count}",
            hint="--bootstrap 1000",
        )
