"""A network and what it answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kdcli.core.network import Network
from kdcli.core.types import Batch, Output
from kdcli.errors import Incompatible
from kdcli.results.weights_header import CheckpointHeader


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A checkpoint and its logits [n,K] over a split, float32, on the CPU.

    features: what the network's taps gave, by name, [n,D] float32 on the CPU; maps are averaged
    over their positions.
    """

    path: Path
    label: str
    header: CheckpointHeader
    network: Network
    logits: Tensor
    targets: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class Head(NamedTuple):
    """The last layer, on the CPU. weight: [K,D]; bias: [K] or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A network under the name that results have for it."""

    label: str
    item: Measured

    @property
    def logits(self) -> Tensor:
        """[n,K]."""
        return self.item.logits

    @property
    def features(self) -> Tensor:
        """What feeds the last layer, [n,D].

        Raises:
            Incompatible: the network has no such place.
        """
        if "pooled" not in self.item.features:
            raise Incompatible(
                f"{self.label} ({self.item.header.architecture}) has no tap 'pooled': no one "
                "vector feeds its last layer"
            )
        return self.item.features["pooled"]

    @property
    def head(self) -> Head:
        """The last layer, where there is one.

        Raises:
            Incompatible: as `features`.
        """
        assert self.features is not None
        layer = self.item.network.head
        return Head(
            layer.weight.detach().float().cpu(),
            None if layer.bias is None else layer.bias.detach().float().cpu(),
        )

    @property
    def linear_head(self) -> Head:
        """The same, where the logits really are its product with the features.

        Raises:
            Incompatible: they are not, as under a cosine head.
        """
        head, rows = self.head, slice(0, 64)
        expected = torch.nn.functional.linear(self.features[rows], head.weight, head.bias)
        if not torch.allclose(
            expected, self.logits[rows], rtol=1e-3, atol=1e-3 * float(self.logits[rows].abs().max())
        ):
            raise Incompatible(
                f"logits of {self.label} are not its features times the weights of its last layer"
            )
        return head


def taps(*, deep: bool) -> Callable[[Network], tuple[str, ...]]:
    """Which taps of a network an explanation reads: the vector before the head, and every stage
    where it goes deep.
    """

    def wanted(network: Network) -> tuple[str, ...]:
        stages = (
            [tap for tap in network.taps if tap.startswith("stage") and "." not in tap]
            if deep
            else []
        )
        return (*stages, *(tap for tap in ("pooled",) if tap in network.taps))

    return wanted


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A network that was measured. logits: [n,K]. ask: how to put a batch to it, with the taps that
    are wanted. alone: False where several teachers answered as one, which have no features and no
    last layer in common.
    """

    label: str
    header: CheckpointHeader
    network: Network
    logits: Tensor
    ask: Callable[[Batch, tuple[str, ...]], Output]
    alone: bool = True
