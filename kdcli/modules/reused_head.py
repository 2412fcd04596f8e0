"""A student's body that answers through its teacher's last layer: the projector between them, and
the network that the two make with the student.
"""

from __future__ import annotations

import copy
import itertools

from torch import Tensor, nn
from torch.nn import functional

from kdcli.core.network import Blueprint, Network
from kdcli.core.taps import averaged_map, name_of
from kdcli.core.types import Output, Tap
from kdcli.errors import Incompatible

ARCHITECTURE = "reused_head"


class Projector(nn.Module):
    """A student's features as the teacher's: a bottleneck of three convolutions, batch norm and
    ReLU after each.

        maps     1x1 C_s to inner, 3x3, 1x1 to C_t; a student's map that is larger than the
                 teacher's is average-pooled first
        vectors  the same with 1x1 in the middle, on a map of one position

    Source: Chen et al. 2022, Knowledge distillation with the reused teacher classifier, section
    3.2; SimKD@d0b9cded models/util.py, which knows the form on maps alone and reads sizes from the
    teacher: here strides are declared, so that the teacher need not be there.

    Args:
        student: the tap that is read. teacher: the one that is imitated; a vector if that is one.
        inner: channels in the middle.
    """

    def __init__(self, student: Tap, teacher: Tap, inner: int) -> None:
        super().__init__()
        self.strides = student.stride, teacher.stride
        kernel = 1 if teacher.stride is None else 3
        widths = (student.channels, inner, inner, teacher.channels)
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(itertools.pairwise(widths)):
            size = kernel if place == 1 else 1
            conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C_s,H,W] or [B,D_s] to [B,C_t,H',W'], H' = W' = 1 for vectors."""
        ours, theirs = self.strides
        if ours is None or theirs is None:
            return self.layers(x[:, :, None, None])  # type: ignore[no-any-return]
        if theirs > ours:
            height, width = (-(-side * ours // theirs) for side in x.shape[2:])
            x = functional.adaptive_avg_pool2d(x, (height, width))
        return self.layers(x)  # type: ignore[no-any-return]


class ReusedHead(Network):
    """A body, a projector and another network's last layer, which reads the projected features
    averaged over their positions.

    Its taps are its body's but for "pooled", which is what the head reads.

    Args:
        body: the student; from here on it has no head. Parameters are the network's own, not
            copies.
        tap: of the body, that the projector reads.
        projector: from there to what the head reads.
        head: the teacher's last layer, or a copy of it.
    """

    def __init__(self, body: Network, tap: str, projector: Projector, head: nn.Linear) -> None:
        super().__init__()
        self.name = ARCHITECTURE
        self.body, self.tap, self.projector, self.head = body, tap, projector, head
        places = {name: place for name, place in body.taps.items() if name != "pooled"}
        self.taps = {**places, "pooled": Tap(head.in_features, None)}
        self.blueprint = _blueprint(self)

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        if unknown := [name for name in taps if name not in self.taps]:
            raise Incompatible(
                f"{self.name} has no tap {unknown[0]!r}",
                hint=f"its taps are {', '.join(self.taps)}",
            )
        wanted = tuple(dict.fromkeys((*(name for name in taps if name != "pooled"), self.tap)))
        read = self.body(x, wanted).taps
        pooled = self.projector(read[self.tap]).mean((2, 3))
        return Output(
            self.classify(pooled), {name: {**read, "pooled": pooled}[name] for name in taps}
        )

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        if upto == "pooled":
            return (*self.body.trunk(self.tap), self.projector)
        return self.body.trunk(upto)

    def norm_at(self, tap: str) -> nn.BatchNorm2d | None:
        return self.body.norm_at(tap)


def behead(network: Network) -> None:
    """Takes the last layer out of a network: its logits are from then on what that layer read.

    Raises:
        Incompatible: another part of it reads the weights of that layer, as tied words do.
    """
    head = network.head
    for module in network.modules():
        others = module.parameters(recurse=False)
        if module is not head and any(weight is head.weight for weight in others):
            raise Incompatible(
                f"{name_of(network)} embeds words by the weights of its last layer, and that is to "
                "give way to the teacher's",
                hint="a student that embeds words by weights of their own, or another method",
            )
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child is head:
                setattr(module, name, nn.Identity())


def copied_head(teacher: Network) -> nn.Linear:
    """A copy of a network's last layer, which a checkpoint can describe by its shape alone.

    Raises:
        Incompatible: it has none, or one that is more than weights and a bias.
    """
    head = teacher.head
    if type(head) is not nn.Linear:
        raise Incompatible(
            f"the last layer of {name_of(teacher)} is a {type(head).__name__}, and only a plain "
            "linear one can be reused",
            hint="another teacher, or another method: kd methods",
        )
    return copy.deepcopy(head)


def bridge(student: Network, teacher: Network) -> tuple[str, str]:
    """The taps of student and teacher that a projector connects: their last maps where both heads
    read the average of one, as the lengths tell, else the vectors that feed the heads. So no weight
    of a body is left unused.
    """
    ours, theirs = averaged_map(student), averaged_map(teacher)
    return (ours, theirs) if ours and theirs else ("pooled", "pooled")


def _blueprint(network: ReusedHead) -> Blueprint | None:
    body, layers = network.body.blueprint, network.projector.layers
    if body is None:
        return None
    inner, stride = layers[0].out_channels, network.projector.strides[1]
    return Blueprint(
        ARCHITECTURE,
        {
            "body": {"architecture": body.architecture, "arguments": dict(body.arguments)},
            "tap": network.tap,
            "inner": inner,
            "features": network.head.in_features,
            "stride": stride,
            "bias": network.head.bias is not None,
        },
    )
