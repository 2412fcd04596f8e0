"""Telling listeners of events, none of which can stop a job by failing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from kdcli.errors import Interrupted, Terminated, shortened
from kdcli.jobs.events import Event, Listener

L = TypeVar("L", bound=Listener)


class ListenerWarning(UserWarning):
    """A listener raised, and hears nothing more."""


class Audience(Generic[L]):
    """The listeners of a job: a listener that passes on to each what it hears.

    One that raises is left out from then on; the job goes on as if it had never been there. What
    happened is said once, as a ListenerWarning, and kept in `told`. A listener that means to stop
    the job raises Interrupted, which passes.
    """

    def __init__(self, listeners: Sequence[L] = (), what: str = "listener") -> None:
        self._listeners = list(listeners)
        self._what = what
        self._told: list[str] = []

    @classmethod
    def of(cls, listeners: Sequence[Listener]) -> Audience[Listener]:
        """The listeners as one, or that one, if they already are."""
        if len(listeners) == 1 and isinstance(listeners[0], Audience):
            return listeners[0]
        return Audience(listeners)

    @property
    def told(self) -> tuple[str, ...]:
        """A sentence for each listener that raised."""
        return tuple(self._told)

    def __call__(self, event: Event) -> None:
        self.each(lambda listener: listener(event))

    def each(self, do: Callable[[L], object]) -> None:
        """Does something with each listener."""
        for listener in tuple(self._listeners):
            try:
                do(listener)
            except (Interrupted, Terminated):
                raise
            except Exception as error:  # noqa: BLE001  it may be anybody's
                self._listeners.remove(listener)
                self.tell(_name(listener), error)

    def tell(self, name: str, error: Exception) -> None:
        """Says that a listener failed."""
        text = str(error).strip().partition("\n")[0]
        found = f"{type(error).__name__}{': ' if text else ''}{shortened(text, 300)}"
        sentence = f"the {self._what} {name} hears nothing more: {found}"
        self._told.append(sentence)
        # where warnings are errors, too, it must not stop the job
        with suppress(ListenerWarning):
            warnings.warn(sentence, ListenerWarning, stacklevel=3)


def _name(listener: Listener) -> str:
    """What to call a listener: its own name, or that of its function or class."""
    for name in (getattr(listener, "name", None), getattr(listener, "__qualname__", None)):
        if isinstance(name, str):
            return name
    return type(listener).__name__
