"""What a search says while it goes on, and the table of what came out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kdcli import formatting
from kdcli.cli.console import Environment
from kdcli.cli.output.listener import Narrator
from kdcli.cli.output.progress import Clock
from kdcli.cli.text import columns

_EVERY = 10.0  # seconds between lines of one long run
_STATES = {
    "raced to the end": ("✓", "green"),
    "left behind": ("·", "dim"),
    "failed": ("✗", "bold red"),
}


class SearchNarrator(Narrator):
    """A line for each trial at each rung, and one now and then in between."""

    def __init__(self, env: Environment, clock: Clock = time.monotonic) -> None:
        self.env = env
        self._clock = clock
        self._told = clock()
        self.handlers = {
            "TrialDone": self.trial_done,
            "EpochDone": self.epoch_done,
            "FromRun": self.from_run,
        }

    def __enter__(self) -> tuple[Any, ...]:
        return () if self.env.settings.quiet else (self,)

    def trial_done(self, event: Any) -> None:
        """A trial has reached a rung, or failed."""
        trial = event.trial
        mark, style = _STATES.get(trial.state, ("→", ""))
        said = f"trial {trial.number}/{event.count}  {event.label}"
        if trial.state == "failed":
            said += f"  failed: {trial.error}"
        elif trial.last is not None:
            score = trial.last
            said += (
                f"  epoch {score.epochs}/{event.epochs}  "
                f"{formatting.percent(score.accuracy, score.n)} held out  "
                f"{trial.state if trial.state != 'raced to the end' else ''}"
            )
        self.env.progress("  ", (mark, style), f" {said.rstrip()}")
        self._told = self._clock()

    def from_run(self, event: Any) -> None:
        """A run in another process says something."""
        if type(event.event).__name__ == "EpochDone":
            self.epoch_done(event.event, f"trial {event.number}  " if event.number else "")

    def epoch_done(self, event: Any, whose: str = "") -> None:
        """An epoch of a run ended."""
        if self._clock() - self._told < _EVERY:
            return
        self._told = self._clock()
        val = f"  val {formatting.percent(event.val.accuracy)}" if event.val else ""
        self.env.progress(f"    {whose}epoch {event.at.epoch}/{event.at.epochs}{val}")


def show_rows(
    env: Environment, headings: Sequence[str], rows: Sequence[Sequence[str]], prose: int
) -> None:
    """A table on the answer's stream. prose: the column, from 0, that is text."""
    align = "".join("<" if place == prose else ">" for place in range(len(headings)))
    align = align[:-1] + "<"
    for line in columns([headings, *rows], align):
        env.answer(line)
