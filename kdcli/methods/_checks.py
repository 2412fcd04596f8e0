"""Checks of data and networks that several methods make before they train."""

from __future__ import annotations

from kdcli.core.network import Network
from kdcli.core.taps import name_of
from kdcli.core.types import DataInfo
from kdcli.errors import Incompatible


def need_three_classes(method: str, data: DataInfo, why: str) -> None:
    """Refuses two classes where a method normalises logits: only the sign of their difference would
    be left.

    Args:
        method: who asks. why: what two logits then are, for the message.

    Raises:
        Incompatible: names the method and the dataset.
    """
    if data.num_classes < 3:
        raise Incompatible(
            f"{method} needs at least 3 classes, {data.name} has {data.num_classes}: {why}",
            hint="--method kd",
        )


def need_tokens(method: str, network: Network) -> None:
    """Refuses a network that has no tokens.

    Args:
        method: who asks.

    Raises:
        Incompatible: names the method and the network.
    """
    if "block1" not in network.taps:
        raise Incompatible(
            f"{method} reads the tokens of a vision transformer, and {name_of(network)} has none",
            hint=(
                "vit-mini or vit-lite, or one of timm such as timm/vit_tiny_patch16_224; or "
                "--method ofa_kd, which goes between kinds of networks"
            ),
        )
