"""Teachers as inference graphs: frozen copies whose batch norms are part of the convolutions before
them, in low precision, compiled.

A copy answers as the network does, but for rounding; whatever is measured about a teacher asks the
network itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdcli.core.merged_classes import MergedClasses
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output, filled_up


class Folded(NamedTuple):
    """A copy of a network, and how many of its batch norms are folded."""

    network: Network
    norms: int
    folded: int


def fold(network: Network) -> Folded:
    """A frozen copy in eval mode, each batch norm folded into the convolution whose output nobody
    else reads.

    Where a network's forward pass cannot be traced by torch.fx, nothing is folded.
    """
    network = network.eval()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    pairs = list(_foldable(network))
    made = copy.deepcopy(network).requires_grad_(requires_grad=False)
    for conv, norm in pairs:
        fused: nn.Module = fuse_conv_bn_eval(made.get_submodule(conv), made.get_submodule(norm))  # type: ignore[type-var,arg-type]
        made.set_submodule(conv, fused)
        made.set_submodule(norm, nn.Identity())
    return Folded(made, norms, len(pairs))


def _foldable(network: Network) -> Iterator[tuple[str, str]]:
    """Paths of each convolution and the batch norm that alone reads it: no tap, and each module is
    called once.
    """
    try:
        graph = fx.Tracer().trace(_Tapped(network))
    except Exception:  # noqa: BLE001  tracing runs the code of whoever wrote the network: it may fail in any way
        return
    modules = dict(_Tapped(network).named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    once = {
        node.target for node in calls if sum(other.target == node.target for other in calls) == 1
    }
    for node in calls:
        before = node.args[0] if node.args else None
        if (
            isinstance(before, fx.Node)
            and before.op == "call_module"
            and {before.target, node.target} <= once
            and type(modules[str(before.target)]) is nn.Conv2d
            and type(modules[str(node.target)]) is nn.BatchNorm2d
            and len(before.users) == 1
        ):
            yield (
                str(before.target).removeprefix("network."),
                str(node.target).removeprefix("network."),
            )


class _Tapped(nn.Module):
    """A network all of whose taps are read."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Output:
        """Images [B,C,H,W] to logits and taps."""
        return self.network(x, tuple(self.network.taps))  # type: ignore[no-any-return]


def lower(network: Network, dtype: torch.dtype) -> None:
    """Keeps the weights of convolutions and linear layers in a precision, so that autocast need not
    convert them each time.

    Norms stay float32, and so do heads (see `Network.classify`) and subclasses, which may compute
    with their weights.
    """
    heads = {
        part.head
        for part in network.modules()
        if isinstance(part, Network) and not isinstance(part, MergedClasses)
    }
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Linear) and module not in heads:
            module.to(dtype)


class InferenceTeacher(Teacher):
    """A teacher that answers training batches by a faster copy of its network.

    Args:
        plain: the teacher itself; `network` stays its own, for methods that look into it.
        dtype: precision of the copy; float32 for no autocast, whatever the step's.
        channels_last: memory layout of the copy; batches come in it.
        rows: images that the copy is asked about at once, always.
        agree: the largest of the ranks' numbers, where they must ask the copy equally often.
    """

    def __init__(
        self,
        plain: Teacher,
        dtype: torch.dtype,
        *,
        channels_last: bool,
        rows: int | None = None,
        agree: Callable[[int], int] = int,
    ) -> None:
        self._plain = plain
        self.rows = rows
        self._agree = agree
        self.network = plain.network
        self.renormalise = plain.renormalise
        self.sees = plain.sees
        self.epoch = plain.epoch
        self.dtype = dtype
        made = fold(plain.network)
        self.norms, self.folded = made.norms, made.folded
        self._graph = made.network
        if dtype != torch.float32:
            lower(self._graph, dtype)
        if channels_last:  # fused weights are made in the usual layout
            self._graph.to(memory_format=torch.channels_last)
        self._compiled: Any = None
        self._asked = False  # for logits alone, since it was last told what comes
        self._held: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # index and logits by the identity of the index, which batches keep

    @property
    def live(self) -> Teacher:
        return self._plain.live

    def shard(self, cut: Callable[[Network], None]) -> None:
        """Leaves this rank its part of the network and of the copy. cut: does so with one."""
        cut(self.network)
        cut(self._graph)

    def compile(self, **options: Any) -> None:
        """Compiles the copy for `rows` images. options: those of torch.compile."""
        self._compiled = torch.compile(self._graph, dynamic=False, **options)

    def expect(self, batches: Sequence[Batch]) -> None:
        """Answers several minibatches at once, if the last were asked about their logits alone."""
        wanted = self._asked and not self._held and len(batches) > 1
        self._asked = not self._held and self._asked
        self._held = {}
        if not wanted:
            return
        sizes = [len(batch.y) for batch in batches]
        parts = self._answer(torch.cat([self.seen(batch) for batch in batches]), ()).logits.split(
            sizes
        )  # type: ignore[no-untyped-call]
        self._held = {
            id(batch.index): (batch.index, part) for batch, part in zip(batches, parts, strict=True)
        }

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        self._asked = not taps
        _, logits = self._held.pop(id(batch.index), (None, None))
        return (
            Output(logits, {})
            if logits is not None and not taps
            else self._answer(self.seen(batch), taps)
        )

    def _answer(self, x: Tensor, taps: tuple[str, ...]) -> Output:
        graph = self._compiled if self._compiled is not None else self._graph
        low = self.dtype != torch.float32
        mixed = torch.is_autocast_enabled(x.device.type)  # the step that asks
        with (
            torch.no_grad(),
            torch.autocast(x.device.type, dtype=self.dtype if low else None, enabled=low),
        ):
            rows = self.rows or len(x)
            blocks = self._agree(-(-len(x) // rows))
            found = in_one_shape(lambda part: graph(part, taps), x, rows, blocks)
        if not low or mixed:
            return found
        # what a float32 step has of its own for the teacher's taps takes nothing else
        return Output(found.logits, {tap: value.float() for tap, value in found.taps.items()})


def in_one_shape(
    forward: Callable[[Tensor], Output], x: Tensor, rows: int, blocks: int = 1
) -> Output:
    """Answers to images [B,...] asked in blocks of exactly `rows`, the last one filled up.

    blocks: how many are asked at least, the last one once more where there are fewer.
    """
    if len(x) == rows and blocks == 1:
        return forward(x)
    parts: Sequence[Tensor] = x.split(rows)  # type: ignore[no-untyped-call]
    for _ in range(blocks - len(parts)):
        forward(filled_up(parts[-1], rows))
    answers = [(forward(filled_up(part, rows)), len(part)) for part in parts]
    return Output(
        torch.cat([answer.logits[:count] for answer, count in answers]),
        {
            tap: torch.cat([answer.taps[tap][:count] for answer, count in answers])
            for tap in answers[0][0].taps
        },
    )
