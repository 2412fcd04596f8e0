"""States that networks carry from one window of a text to the next.

A text is read window by window, and what a recurrent network remembers goes on from each to the
next. Like class weights this reaches the networks around the methods, which do not know of it:
whoever goes through windows opens each of them, and a network asks what it remembers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

from kdcli.core.types import Batch

States = tuple[Tensor, ...]


class Carried:
    """What every network that reads a text remembers of it.

    A network that is asked twice about a window begins both times with what it remembered before.
    Networks are told apart by the order in which they are first asked, which is the same in a run
    that goes on from a state.
    """

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._before: dict[int, States] = {}
        self._after: dict[int, States] = {}

    @contextmanager
    def window(self, batch: Batch) -> Iterator[None]:
        """Around all that is asked about a minibatch; a text's first window begins with nothing
        remembered, and samples that are no windows have nothing to remember.
        """
        if batch.window is None:
            yield
            return
        if batch.window == 0:
            self._after = {}
        self._before = dict(self._after)
        token = _reading.set(self)
        try:
            yield
        finally:
            _reading.reset(token)

    def place(self, network: nn.Module) -> int:
        """The number of a network, from 0, in the order in which they were first asked."""
        return self._places.setdefault(id(network), len(self._places))

    def begin(self, network: nn.Module) -> States | None:
        """What a network remembers from before this window; None where it begins."""
        return self._before.get(self.place(network))

    def end(self, network: nn.Module, states: States) -> None:
        """Takes what a network remembers after this window."""
        self._after[self.place(network)] = tuple(state.detach() for state in states)

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `load_state` goes on."""
        return {
            f"{place}.{number}": tensor
            for place, states in self._after.items()
            for number, tensor in enumerate(states)
        }

    def load_state(self, tensors: Mapping[str, Tensor], device: object = None) -> None:
        """Inverse of `state`."""
        found: dict[int, dict[int, Tensor]] = {}
        for name, tensor in tensors.items():
            place, _, number = name.partition(".")
            found.setdefault(int(place), {})[int(number)] = tensor.to(device)  # type: ignore[call-overload]
        self._after = {
            place: tuple(states[number] for number in sorted(states))
            for place, states in found.items()
        }


_reading: ContextVar[Carried | None] = ContextVar("carried states", default=None)


def remembered(network: nn.Module) -> States | None:
    """What a network remembers of the text before this window; None where nothing."""
    carried = _reading.get()
    return None if carried is None else carried.begin(network)


def remember(network: nn.Module, states: States) -> None:
    """Keeps what a network remembers after this window, where anything follows."""
    if (carried := _reading.get()) is not None:
        carried.end(network, states)
