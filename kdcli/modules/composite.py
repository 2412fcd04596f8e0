"""Composite: several networks that answer as one, so that what a method deploys may be more than
one network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kdcli.core.network import Blueprint, Network
from kdcli.core.types import Output
from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import precise

ARCHITECTURE = "composite"

Combine = Literal["mean_probabilities", "sum_logits"]


def combined(logits: Sequence[Tensor], combine: Combine) -> Tensor:
    """Several networks' logits [N,K] as one, [N,K]: see Composite."""
    together = torch.stack([precise(z) for z in logits])
    if combine == "sum_logits":
        return together.sum(0)
    return together.log_softmax(-1).logsumexp(0) - math.log(len(logits))


class Composite(Network):
    """Members that see the same images and whose answers become one.

        mean_probabilities    log( 1/M sum_m softmax(z_m) ): its softmax is the members' mean
        sum_logits            sum_m z_m

    It has no taps: members need not have places in common. Its head is the first member's, which
    tells the number of classes.

    Args:
        members: at least one, with the same classes. Their parameters are the composite's own, not
            copies.
        combine: how.

    Raises:
        Incompatible: no members, or heads of different width. UsageError: an unknown way to
            combine.
    """

    def __init__(self, members: Sequence[Network], combine: Combine) -> None:
        super().__init__()
        if combine not in get_args(Combine):
            raise UsageError(
                f"a composite combines by {' or '.join(get_args(Combine))}, not by {combine!r}"
            )
        if len({member.head.out_features for member in members}) != 1:
            classes = ", ".join(str(member.head.out_features) for member in members)
            raise Incompatible(
                "a composite needs members with the same classes, got heads of "
                f"{classes or 'no member'}"
            )
        self.name = ARCHITECTURE
        self.members = nn.ModuleList(members)
        self.combine = combine
        self.taps = {}
        self.blueprint = _blueprint(members, combine)

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # registered once, as its member's
        """The first member's."""
        return self.members[0].head  # type: ignore[return-value]

    def linear_heads(self) -> tuple[nn.Linear, ...]:
        heads = [member.linear_heads() for member in self.members]  # type: ignore[operator]
        # a mean of probabilities divides no logit when its members' are divided
        summed = self.combine == "sum_logits" and all(heads)
        return tuple(head for each in heads for head in each) if summed else ()

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        if taps:
            raise Incompatible(
                f"{self.name} has no tap {taps[0]!r}: its members' maps are not each other's"
            )
        return Output(combined([member(x).logits for member in self.members], self.combine), {})

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        raise Incompatible(
            f"{self.name} has no tap {upto!r}: its members' maps are not each other's"
        )


def _blueprint(members: Sequence[Network], combine: str) -> Blueprint | None:
    parts = [member.blueprint for member in members]
    known = [
        {"architecture": part.architecture, "arguments": dict(part.arguments)}
        for part in parts
        if part is not None
    ]
    return (
        Blueprint(ARCHITECTURE, {"combine": combine, "members": known})
        if len(known) == len(parts)
        else None
    )
