"""StagedNetwork: the network that most families are. A row of parts, an activation after each, a
neck, a linear head.

The activation stands outside the parts, so a ".pre" tap is simply what a part returns. It works in
place unless that tap is asked for: a tap that nobody wants costs neither memory nor time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcli.core.network import Network
from kdcli.core.types import Output, Tap
from kdcli.models._checks import check_taps

LEAK = 0.2  # slope of the negative part: the value of the Keras example that paper 001 builds on

_ACTIVATIONS: Mapping[str, Callable[[Tensor, bool], Tensor]] = {
    "relu": lambda x, inplace: functional.relu(x, inplace=inplace),
    "leaky_relu": lambda x, inplace: functional.leaky_relu(x, LEAK, inplace=inplace),
    "tanh": lambda x, inplace: torch.tanh_(x) if inplace else torch.tanh(x),
    "none": lambda x, inplace: x,  # noqa: ARG005  the signature that the others have
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a staged network.

    name: its tap, "stem" or "stageN". module: gives the tap before its activation. channels,
    stride: as in Tap. activation: "relu", "leaky_relu", "tanh" or "none". norm: the batch norm that
    the module ends with, if it does.
    """

    name: str
    module: nn.Module
    channels: int
    stride: int | None
    activation: str = "relu"
    norm: nn.BatchNorm2d | None = None


class StagedNetwork(Network):
    """Parts in a row, each followed by its activation; then a neck that makes a vector; then the
    linear head.

    Args:
        name: what messages call it.
        parts: in order; may be empty.
        neck: the last map to the vector "pooled" [B,D].
        head: D to K.
    """

    def __init__(self, name: str, parts: Sequence[Part], neck: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.name = name
        self.body = nn.ModuleDict({part.name: part.module for part in parts})
        self.neck = neck
        self.head = head
        self.taps = _declared(parts, head.in_features)
        self._activations = {part.name: _ACTIVATIONS[part.activation] for part in parts}
        # a dict is not searched for modules: a norm belongs to its part and is registered there
        # only
        self._norms = {f"{part.name}.pre": part.norm for part in parts}

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        check_taps(self.name, taps, self.taps)
        kept: dict[str, Tensor] = {}
        for name, part in self.body.items():
            before = f"{name}.pre"
            x = part(x)
            if before in taps:
                kept[before] = x
            x = self._activations[name](x, before not in taps)
            if name in taps:
                kept[name] = x
        x = self.neck(x)
        if "pooled" in taps:
            kept["pooled"] = x
        return Output(self.classify(x), kept)

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        check_taps(self.name, (upto,), self.taps)
        if upto == "pooled":
            return (*self.body.values(), self.neck)
        count = list(self.body).index(upto.removesuffix(".pre")) + 1
        return tuple(self.body.values())[:count]

    def tail(self, tap: str) -> Tail:
        check_taps(self.name, (tap,), self.taps)
        if tap not in self.body:
            return super().tail(tap)  # type: ignore[return-value]  # it raises
        return Tail(self, list(self.body).index(tap) + 1)

    def norm_at(self, tap: str) -> nn.BatchNorm2d | None:
        check_taps(self.name, (tap,), self.taps)
        return self._norms.get(tap)


class Tail(nn.Module):
    """The parts of a staged network from a number on, its neck and its head: a map to logits."""

    def __init__(self, network: StagedNetwork, start: int) -> None:
        super().__init__()
        names = list(network.body)[start:]
        self.body = nn.ModuleDict({name: network.body[name] for name in names})
        self.neck, self.head = network.neck, network.head
        self._activations = {name: network._activations[name] for name in names}  # noqa: SLF001  a part of it
        self._classify = type(network).classify

    def forward(self, x: Tensor) -> Tensor:
        """The value of the tap to logits [B,K]."""
        for name, part in self.body.items():
            x = self._activations[name](part(x), True)
        return self._classify(self, self.neck(x))  # type: ignore[arg-type]  # it has a head


def _declared(parts: Sequence[Part], pooled: int) -> dict[str, Tap]:
    taps: dict[str, Tap] = {}
    for part in parts:
        tap = Tap(part.channels, part.stride)
        if part.name != "stem":
            taps[f"{part.name}.pre"] = tap
        taps[part.name] = tap
    return {**taps, "pooled": Tap(pooled, None)}
