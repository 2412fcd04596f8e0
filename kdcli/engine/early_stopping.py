"""When a stage ends before its epochs are over: held-out agreement has not grown for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EarlyStopping:
    """Counts epochs without a better agreement. All of it is a function of what `judge` was told,
    and a state holds it: a resumed run ends where one that never stopped does.

    Args:
        patience: so many of them end a stage; None never does.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        # by number of a stage: the epoch after which it was ended
        self.stopped: dict[int, int] = {}
        self.begin()

    def begin(self) -> None:
        """A stage begins."""
        self.best: float | None = None
        self.best_epoch = self.without = 0

    @property
    def ended(self) -> bool:
        """Tells whether the stage is over."""
        return self.patience is not None and self.without >= self.patience

    def judge(self, stage: int, epoch: int, agreement: float | None) -> None:
        """Looks at the agreement after an epoch; None is no better than any."""
        if agreement is not None and (self.best is None or agreement > self.best):
            self.best, self.best_epoch, self.without = agreement, epoch, 0
        else:
            self.without += 1
        if self.ended:
            self.stopped[stage] = epoch

    def state(self) -> dict[str, Any]:
        """Facts from which `load_state` goes on."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "without": self.without,
            "stopped": {str(stage): epoch for stage, epoch in self.stopped.items()},
        }

    def load_state(self, facts: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        best = facts.get("best")
        self.best = None if best is None else float(best)
        self.best_epoch = int(facts.get("best_epoch", 0))
        self.without = int(facts.get("without", 0))
        self.stopped = {int(stage): int(e) for stage, e in facts.get("stopped", {}).items()}

    def in_words(self, epochs: int) -> str:
        """What is to be said of a stage that was ended, of so many epochs; "" of one that was not.

        The last that was, where several were.
        """
        if not self.stopped:
            return ""
        epoch = self.stopped[max(self.stopped)]
        if epoch >= epochs:
            return ""
        best = "" if self.best is None else f"; {self.best:.1%} after epoch {self.best_epoch}"
        return (
            f"stopped after epoch {epoch} of {epochs}: the last {self.patience} brought no better "
            f"agreement on the held-out part{best}"
        )
