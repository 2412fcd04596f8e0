"""Refusals that every family shares, so that they read alike."""

from __future__ import annotations

from collections.abc import Iterable

from kdcli.errors import Incompatible


def check_taps(network: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuses taps that a network does not have.

    Raises:
        Incompatible: names the first such tap, the network and the taps that it does have.
    """
    known = tuple(known)
    for tap in wanted:
        if tap not in known:
            raise Incompatible(
                f"{network} has no tap {tap!r}", hint=f"its taps are {', '.join(known)}"
            )


def check_size(network: str, input_shape: tuple[int, int, int], halvings: int) -> None:
    """Refuses pictures that would be a single pixel before the last halving.

    Args:
        network: its name, for the message.
        input_shape: channels, height, width.
        halvings: how often the network halves height and width, rounding up.

    Raises:
        Incompatible: height or width is too small.
    """
    _, height, width = input_shape
    least = 2 ** max(halvings - 1, 0) + (halvings > 0)
    if min(height, width) < least:
        raise Incompatible(
            f"{network} halves its input {halvings} times: pictures of {height}x{width} are "
            "too small for it",
            hint=(
                f"use pictures of at least {least}x{least}, or a network with fewer stages such "
                "as cnn-small"
            ),
        )
