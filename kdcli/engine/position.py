"""Where a run is in its training, and where a saved state goes on."""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.engine.checkpoint import State
from kdcli.errors import CorruptFile
from kdcli.typed import strict


@dataclass(frozen=True, slots=True)
class Position:
    """A place in training: stage from 0, epoch from 1, minibatch of the epoch from 0, optimiser
    steps of the stage taken.
    """

    stage: int = 0
    epoch: int = 1
    batch: int = 0
    step: int = 0


def position_of(state: State) -> Position:
    """Where a saved state goes on.

    Raises:
        CorruptFile: it does not say.
    """
    try:
        return strict(Position, state.facts.get("position"))
    except ValueError as error:
        raise unfit(f"position: {error}") from error


def unfit(problem: str) -> CorruptFile:
    """The error of a saved state that is not one of its run's."""
    first_line, _, _ = problem.partition("\n")
    return CorruptFile(
        f"the saved state is not one of this run: {first_line[:200]}",
        hint="remove the newest file under RUN/state to go on from the one before",
    )
