"""The listener to a job's events that works for the user."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any


class Narrator:
    """Listener with a method for each kind of event that it tells of; within `with`, the listeners
    of a job.
    """

    # by the event's class: importing those classes would import torch
    handlers: dict[str, Callable[[Any], None]]

    def __call__(self, event: Any) -> None:
        handler = self.handlers.get(type(event).__name__)
        if handler is not None:
            handler(event)

    def __enter__(self) -> tuple[Any, ...]:
        return (self,)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the terminal as it was."""
