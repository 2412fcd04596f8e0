"""Thins the log of a long run: dense at first, then ever sparser, so that no run of any length
floods a log.
"""

from __future__ import annotations

import math

# all of these are logged; then each logged epoch is at least 3 % later than the one before
DENSE_EPOCHS = 50
EPOCH_GROWTH = 1.03
STEP_SECONDS = 10.0  # at most one line in this time within an epoch
STEP_GROWTH = 1.15


class EpochThinning:
    """Says which epochs to log: the first ones, then geometrically fewer, and always the last."""

    def __init__(self) -> None:
        self._next = 1

    def __call__(self, epoch: int, epochs: int) -> bool:
        if epoch < self._next and epoch != epochs:
            return False
        self._next = (
            epoch + 1 if epoch < DENSE_EPOCHS else max(epoch + 1, math.ceil(epoch * EPOCH_GROWTH))
        )
        return True


class StepThinning:
    """Says when to log within an epoch: ten seconds after the last line at the soonest, and ever
    more rarely.

    Args:
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, now: float) -> None:
        self._started = self._last = now

    def line_written(self, now: float) -> None:
        """Any line counts."""
        self._last = now

    def __call__(self, now: float) -> bool:
        since_start = self._last - self._started
        if now - self._last < max(STEP_SECONDS, since_start * (STEP_GROWTH - 1)):
            return False
        self._last = now
        return True
