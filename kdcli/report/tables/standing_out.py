"""Which cell of a line of a table is better than the others by more than chance.

Chance has two sources, and each is tested where it can be. *Seeds*: a paired t-test over those that
two cells share, Welch's where they share fewer than two. *Images*: had others been in the test set;
a paired t-test over images of the difference of two cells' shares of right answers, each a mean
over the seeds that they share. The p-value of a comparison is the larger one. All comparisons of a
metric in a table, the best of each line against each other of its line, are corrected together:
Holm's step-down for p-values, Bonferroni for intervals, so that the chance of any wrong word about
the table is 5 % at most for a best that was named beforehand. It is not: the best is chosen by what
was measured, so among many equal cells it is a little more.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kdcli.results.sweep import CellComparison

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHA = 0.05

Seed = Hashable  # the labels of the axes that a cell's mean is over


@dataclass(frozen=True)
class Values:
    """What a cell is a mean of: by seed, how good it is, more being better; by the same seeds, for
    accuracy, what marks the test images and which were answered rightly, [n] bool.
    """

    row: str
    column: str
    merits: Mapping[Seed, float]
    right: Mapping[Seed, tuple[str, NDArray]] = field(default_factory=dict)  # type: ignore[type-arg]

    @property
    def mean(self) -> float:
        return sum(self.merits.values()) / len(self.merits)


def compare(lines: Sequence[Sequence[Values]], metric: str) -> tuple[CellComparison, ...]:
    """The best cell of each line, its first, against each of the others.

    Args:
        lines: cells that compete, the best one first; all of one metric.
    """
    tests = [
        (best, other, _over_seeds(best, other), _over_images(best, other))
        for best, *others in lines
        for other in others
    ]
    level = ALPHA / max(len(tests), 1)
    found = [_record(*each, metric=metric, level=level) for each in tests]
    return _holm(found)


@dataclass(frozen=True, slots=True)
class _Test:
    """A t-test of a mean difference. error: its standard error; df: degrees of freedom."""

    mean: float
    error: float
    df: float
    paired: bool

    @property
    def p_value(self) -> float:
        from scipy.stats import t

        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * t.sf(abs(self.mean) / self.error, self.df))

    def reach(self, level: float) -> float:
        """Half of the interval that misses the true difference with this probability."""
        return reach(self.error, self.df, level)


def reach(error: float, df: float, level: float = ALPHA) -> float:
    """Half of Student's interval around a mean, which misses the true one with a probability.

    Args:
        error: the mean's standard error. df: degrees of freedom. level: that probability.
    """
    from scipy.stats import t

    return float(t.isf(level / 2, df)) * error


def _over_seeds(one: Values, other: Values) -> _Test | None:
    import numpy as np

    shared = [seed for seed in one.merits if seed in other.merits]
    if len(shared) > 1:
        differences = np.array([one.merits[seed] - other.merits[seed] for seed in shared])
        return _paired(differences)
    a, b = (np.array(list(each.merits.values())) for each in (one, other))
    if min(len(a), len(b)) < 2:
        return None
    # Welch: variances of the two means, and the degrees of freedom that go with their sum
    u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    df = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1)) if u + v > 0 else 1.0
    return _Test(float(a.mean() - b.mean()), math.sqrt(u + v), float(df), paired=False)


def _over_images(one: Values, other: Values) -> _Test | None:
    """None unless some seed's answers to the same images are known of both."""
    import numpy as np

    pairs = [
        (one.right[seed][1], other.right[seed][1])
        for seed in one.right
        if seed in other.right and one.right[seed][0] == other.right[seed][0]
    ]
    if not pairs or len({len(right) for right, _ in pairs}) > 1 or len(pairs[0][0]) < 2:
        return None
    # [n]: by image, by how much more often the one is right than the other
    return _paired(np.mean([a.astype(float) - b for a, b in pairs], axis=0))


def _paired(differences: NDArray) -> _Test:  # type: ignore[type-arg]
    count = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    return _Test(float(differences.mean()), error, count - 1, paired=True)


def _record(
    best: Values,
    other: Values,
    seeds: _Test | None,
    images: _Test | None,
    *,
    metric: str,
    level: float,
) -> CellComparison:
    difference = seeds.mean if seeds is not None else best.mean - other.mean
    known = [test for test in (seeds, images) if test is not None]
    reach = max((test.reach(level) for test in known), default=None)
    return CellComparison(
        metric=metric,
        row=best.row,
        column=best.column,
        other_row=other.row,
        other_column=other.column,
        difference=difference,
        low=None if reach is None else difference - reach,
        high=None if reach is None else difference + reach,
        seeds=len(set(best.merits) & set(other.merits)),
        paired=seeds.paired if seeds is not None else False,
        p_seeds=None if seeds is None else seeds.p_value,
        p_images=None if images is None else images.p_value,
        p_value=max((test.p_value for test in known), default=None),
        stands_out=False,
    )


def _holm(found: Sequence[CellComparison]) -> tuple[CellComparison, ...]:
    """p-values of the step-down procedure (Holm 1979): the smallest times the number of all, the
    next times one fewer, none below the one before.
    """
    known = [place for place, item in enumerate(found) if item.p_value is not None]
    known.sort(key=lambda place: found[place].p_value or 0.0)
    corrected, least = list(found), 0.0
    for rank, place in enumerate(known):
        least = max(least, min((len(found) - rank) * (found[place].p_value or 0.0), 1.0))
        corrected[place] = replace(found[place], p_value=least, stands_out=least < ALPHA)
    return tuple(corrected)
