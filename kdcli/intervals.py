"""A number and how sure it is: what every other type of result is made of. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over samples with its 95 % bootstrap interval (percentile, over samples)."""

    value: float
    low: float
    high: float
