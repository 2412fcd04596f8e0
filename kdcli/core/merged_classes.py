"""A network whose classes are merged to those of the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcli.core.class_map import Groups
from kdcli.core.network import Network
from kdcli.core.types import Output
from kdcli.errors import Incompatible


class MergedClasses(Network):
    """A network of M classes as one of K, each of them one or several of its own.

    The probability of a class is the sum of those of its members, and what belongs to none is left
    out: v_k = log sum_{c in k} exp v_c, whose softmax over the K classes is that sum, renormalised.
    Taps are the network's own. Its last layer is not: it tells M classes apart.

    Args:
        network: of M classes.
        groups: [K] numbers of its classes, each in one group at most.
    """

    def __init__(self, network: Network, groups: Groups) -> None:
        super().__init__()
        self.network = network
        self.groups = groups
        self.taps = network.taps
        self.name = getattr(network, "name", type(network).__name__)
        most = max(map(len, groups))
        # rows of equal length: what fills one up is a class that weighs nothing
        columns = [[*group, *(group[:1] * (most - len(group)))] for group in groups]
        weighs = [[0.0] * len(group) + [-torch.inf] * (most - len(group)) for group in groups]
        self.most = most
        self.register_buffer("columns", torch.tensor(columns).flatten(), persistent=False)
        self.register_buffer("weighs", torch.tensor(weighs), persistent=False)

    columns: Tensor
    weighs: Tensor

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # there is none
        """None.

        Raises:
            Incompatible: always.
        """
        raise Incompatible(
            "the last layer of the teacher tells its own classes apart, which teacher.classes "
            "merges to those of the data",
            hint="a method that asks for logits or features alone, such as kd or at",
        )

    @property
    def num_classes(self) -> int:
        return len(self.groups)

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        output = self.network(x, taps)
        return Output(self.merged(output.logits), output.taps)

    def merged(self, logits: Tensor) -> Tensor:
        """Logits [N,M] of the network's own classes as those of the groups, [N,K]."""
        logits = logits.index_select(1, self.columns)
        if self.most == 1:
            return logits
        return (logits.view(-1, len(self.groups), self.most) + self.weighs).logsumexp(2)

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        return self.network.trunk(upto)

    def norm_at(self, tap: str) -> nn.BatchNorm2d | None:
        return self.network.norm_at(tap)

    def linear_heads(self) -> tuple[nn.Linear, ...]:
        """None: a sum of probabilities is not scaled by scaling them."""
        return ()
