"""Tap patterns: how a method says which places of a network it reads without knowing the network.

"stage*" is every stage's map, first to last, and "last" the last stage's; "stage*.pre" and
"last.pre" are the same before the activation that ends the stage. Any other pattern is the tap of
that name: "stem", "stage2", "stage2.pre", "pooled".
"""

from __future__ import annotations

from collections.abc import Iterable

from kdcli.core.network import Network
from kdcli.errors import Incompatible


def name_of(network: Network) -> str:
    """The name of a network in messages."""
    return str(getattr(network, "name", type(network).__name__))


def expand(network: Network, patterns: Iterable[str], method: str) -> tuple[str, ...]:
    """The taps of a network that patterns stand for, in the order of the patterns.

    Args:
        method: who asks, for the message.

    Raises:
        Incompatible: the network has no such tap; names it, the network and the taps that there
            are.
    """
    found: list[str] = []
    for pattern in patterns:
        taps = _matching(network, pattern)
        missing = [tap for tap in taps if tap not in network.taps]
        if missing or not taps:
            raise Incompatible(
                f"{method} reads {(missing or [pattern])[0]!r}, which {name_of(network)} "
                "does not have",
                hint=f"its taps are {', '.join(network.taps)}",
            )
        found += taps
    return tuple(found)


def _matching(network: Network, pattern: str) -> list[str]:
    stage, dot, before = pattern.partition(".")
    if stage not in {"stage*", "last"}:
        return [pattern]
    stages = [tap for tap in network.taps if tap.startswith("stage") and "." not in tap]
    return [f"{tap}{dot}{before}" for tap in (stages if stage == "stage*" else stages[-1:])]


def check_maps(network: Network, taps: Iterable[str], method: str) -> None:
    """Refuses taps that are vectors where a method compares maps.

    Raises:
        Incompatible: names the first one.
    """
    for tap in taps:
        if network.taps[tap].stride is None:
            raise Incompatible(
                f"{method} compares feature maps, and {tap!r} of {name_of(network)} is a vector",
                hint=(
                    "a convolutional network, or a method on logits or on the pooled vector: kd "
                    "methods"
                ),
            )


def averaged_map(network: Network) -> str | None:
    """The tap of the map whose average over positions feeds the head, or None where none does: a
    last map whose channels are as many as the head reads.
    """
    stages = _matching(network, "last")
    if not stages or network.taps[stages[0]].stride is None:
        return None
    return stages[0] if network.taps[stages[0]].channels == network.head.in_features else None
