"""Headed: a network that somebody else wrote, split before its last linear layer so that "pooled"
can be tapped without hooks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        second: where its second head is, if it answers the mean of two, as DeiT's distilled ones
            do. The head then is both: one layer on the vectors of the two, side by side.
    """

    def __init__(self, name: str, net: nn.Module, path: str, second: str = "") -> None:
        super().__init__()
        head = _linear(net, path)
        if second:
            other = _linear(net, second)
            net.set_submodule(path, _Beside(right=other.in_features))
            net.set_submodule(second, _Beside(left=head.in_features))
            self.distilled = (head.in_features, other.in_features)
            head = _joined(head, other)
        else:
            net.set_submodule(path, nn.Identity())
        self.name = name
        self.net = net
        self.path = path
        self.second = second
        self.head = head
        self.taps = {"pooled": Tap(head.in_features, None)}

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        check_taps(self.name, taps, self.taps)
        pooled = self.net(x)
        return Output(self.classify(pooled), dict.fromkeys(taps, pooled))

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        check_taps(self.name, (upto,), self.taps)
        return (self.net,)

    def of_one_head(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a library's file of this network with its two heads in one, by the names
        that they have here; the same tensors where it has one head, or the file not both.
        """
        inside = ("", "model.") if self.path.startswith("model.") else ("",)
        for wrapped in inside:
            paths = [path.removeprefix(wrapped) for path in (self.path, self.second)]
            weights = [tensors.get(f"{path}.weight") for path in paths]
            first, other = weights
            if (
                not self.second
                or first is None
                or other is None
                or first.shape[:1] != other.shape[:1]
            ):
                continue
            gone = {f"{path}.{kind}" for path in paths for kind in ("weight", "bias")}
            found = {name: value for name, value in tensors.items() if name not in gone}
            found["head.weight"] = torch.cat([first, other], 1) / 2
            if biases := [tensors[n] for path in paths if (n := f"{path}.bias") in tensors]:
                found["head.bias"] = torch.stack(biases).sum(0) / 2
            return found
        return dict(tensors)

    def library_heads(self) -> dict[str, Tensor]:
        """The tensors of the head as its library has them, by their names there: of two heads both,
        which answer the same bias.
        """
        found = {f"{self.path}.{key}": value for key, value in self.head.state_dict().items()}
        if not self.second:
            return found
        weight = found.pop(f"{self.path}.weight")
        assert self.distilled is not None
        first, other = weight.split(self.distilled, dim=1)
        return {
            f"{self.path}.weight": 2 * first,
            f"{self.second}.weight": 2 * other,
            **found,
            **{key.replace(self.path, self.second, 1): value for key, value in found.items()},
        }


def two_heads(network: Network) -> tuple[str, ...]:
    """What is done with the two heads of a network that has two, in a sentence; else nothing."""
    if not isinstance(network, Headed) or not network.second:
        return ()
    heads = f"{network.name} has two heads, {network.path} and {network.second}"
    return (
        f"{heads}: it is asked as the mean of their logits, and trained so but by --method deit",
    )


class _Beside(nn.Module):
    """Takes the place of one of two heads: its vector [B,D] twice over and zeros where the other's
    is. The mean of both, which the network makes, has the two side by side, to the last bit.
    """

    def __init__(self, left: int = 0, right: int = 0) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(2 * x, (self.left, self.right))


def _linear(net: nn.Module, path: str) -> nn.Linear:
    head = net.get_submodule(path)
    if not isinstance(head, nn.Linear):
        raise TypeError(f"{path} is no linear layer")
    # timm's own class differs from PyTorch's in TorchScript alone
    return _plain(head) if type(head).__module__ == "timm.layers.linear" else head


def _plain(head: nn.Linear) -> nn.Linear:
    """PyTorch's own linear layer of the same weights, whose kind tells methods what it does."""
    plain = nn.Linear(head.in_features, head.out_features, device="meta")  # draws no number
    plain.weight, plain.bias = head.weight, head.bias
    return plain


def _joined(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """The mean of two layers as one: (W a + b + V c + d) / 2 = [W/2, V/2] [a; c] + (b + d) / 2."""
    both = (first, second)
    biases = [head.bias for head in both if head.bias is not None]
    joined = nn.Linear(
        sum(head.in_features for head in both),
        first.out_features,
        bias=bool(biases),
        device=first.weight.device,
        dtype=first.weight.dtype,
    )
    with torch.no_grad():
        joined.weight.copy_(torch.cat([head.weight for head in both], 1) / 2)
        if biases:
            joined.bias.copy_(torch.stack([bias.detach() for bias in biases]).sum(0) / 2)
    return joined
