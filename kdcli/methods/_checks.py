"""Checks of the data that several methods make before they train."""

from __future__ import annotations

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
