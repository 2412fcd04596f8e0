"""The base of methods whose networks learn together, from labels and from one another."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from kdcli.core.method import Method, Setup
from kdcli.core.network import Network
from kdcli.core.options import PeerOptions
from kdcli.core.types import Batch


class PeerMethod(Method):
    """Trains the student and its peers together. The student is what is evaluated and shipped."""

    options: PeerOptions

    def __init__(self, options: PeerOptions, setup: Setup) -> None:
        super().__init__(options, setup)
        self.peers = nn.ModuleList(setup.build(name) for name in options.peers)

    def watched(self) -> Mapping[str, Network]:
        """The peers."""
        return {f"peer{number}": network for number, network in enumerate(self.peers, 1)}  # type: ignore[misc]

    def answers(self, batch: Batch) -> dict[str, Tensor]:
        """Logits of each network, the student first, by what the names of its terms begin with: ""
        for the student, peer1_, peer2_, ...
        """
        networks = {"": self.student, **{f"{name}_": each for name, each in self.watched().items()}}
        return {prefix: network(batch.x).logits for prefix, network in networks.items()}
