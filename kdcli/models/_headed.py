"""Headed: a network that somebody else wrote, split before its last linear layer so that "pooled"
can be tapped without hooks.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.core.types import Output, Tap
from kdcli.models._checks import check_taps


def head_path(net: nn.Module) -> str | None:
    """The path of a module's last linear layer, or None where it has none."""
    paths = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    return paths[-1] if paths else None


class Headed(Network):
    """Somebody's network as features, and its last linear layer as the head.

    Args:
        name: what messages call it.
        net: the network. Its head is taken out of it, so it gives features [B,D] from then on.
        path: where its head is, as `head_path` says; and where it was, of a network made so.
    """

    def __init__(self, name: str, net: nn.Module, path: str) -> None:
        super().__init__()
        head = net.get_submodule(path)
        if not isinstance(head, nn.Linear):
            raise TypeError(f"{path} is no linear layer")
        net.set_submodule(path, nn.Identity())
        self.name = name
        self.net = net
        self.path = path
        self.head = head
        self.taps = {"pooled": Tap(head.in_features, None)}

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        check_taps(self.name, taps, self.taps)
        pooled = self.net(x)
        return Output(self.classify(pooled), dict.fromkeys(taps, pooled))

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        check_taps(self.name, (upto,), self.taps)
        return (self.net,)
