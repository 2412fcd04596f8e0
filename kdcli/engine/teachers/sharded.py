"""Teachers that do not fit one device: their weights lie in parts on the ranks, and each block is
gathered while it answers and let go again (torch's FSDP2, `fully_shard`).

A gather needs every rank, and not everybody asks a teacher when everybody else does:

- In training steps all ranks ask, in the same order. They ask as often: who has fewer images to ask
  about, or none that are not stored, asks once more (`InferenceTeacher`, `CachedTeacher`).
- Whatever is measured the first rank asks alone, while the others wait for what it makes
  (`Ranks.from_first`). They follow it there: it sends them what it asks, and they ask the same and
  drop the answer. So everything that measures works as with a whole teacher, no rank ever holds
  one, and a rank that dies is noticed in the gather as in any other talk between ranks.

Two other ways were weighed: a copy on the first rank's CPU for measurements, which needs the memory
of a whole teacher there and answers by other arithmetic than that of training; and to measure on
all ranks, by which each method, explanation and page would have to know of ranks.

Parts are matrices and kernels, which are nearly all of a network: vectors (biases, norms), the
head, and weights that two layers share stay whole. So methods that read them need not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from kdcli.core.merged_classes import MergedClasses
from kdcli.core.network import Network
from kdcli.core.types import Output
from kdcli.engine.distributed import Ranks
from kdcli.errors import Incompatible

# a block is at most this part of the network: so much is gathered at once, beside a rank's own part
_PARTS = 8


def shard(
    network: Network, device: torch.device, ranks: Ranks, *, channels_last: bool = False
) -> None:
    """Leaves this rank its part of a frozen network that all ranks hold whole, on a device.

    The network may lie on the CPU: a block at a time comes to the device, where its part is cut
    out. It answers without gradient only, and where all ranks ask it, or the first alone within
    `Ranks.from_first`.

    Args:
        network: all ranks shard the same networks in the same order.
        channels_last: memory layout of the gathered kernels: by it convolutions round.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.size,))
    # parts are rows of memory
    network.to(memory_format=torch.contiguous_format)
    whole = _whole(network)
    for block in _blocks(network, whole, _bytes(network, whole) // _PARTS):
        # else the last block that was asked would stay gathered
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    for tensor in chain(network.parameters(), network.buffers()):
        if not hasattr(tensor, "to_local"):
            tensor.data = tensor.data.to(device)
    if channels_last:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                _lay_out(module)
    _ask_together(network, ranks)


def share_held(network: nn.Module) -> float:
    """The part of a network's bytes, weights and running statistics, that this process holds."""
    tensors: list[Any] = [*network.parameters(), *network.buffers()]
    held = sum(int(getattr(part, "_local_tensor", part).nbytes) for part in tensors)
    return held / max(sum(int(part.numel() * part.element_size()) for part in tensors), 1)


def is_sharded(network: nn.Module) -> bool:
    """Tells whether a rank holds a part of it."""
    return any(hasattr(parameter, "to_local") for parameter in network.parameters())


def _whole(network: Network) -> set[nn.Parameter]:
    """The parameters of which each rank holds all."""
    heads = [
        part.head
        for part in network.modules()
        if isinstance(part, Network) and not isinstance(part, MergedClasses)
    ]
    found = {parameter for head in heads for parameter in head.parameters()}
    seen = set[nn.Parameter]()
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() < 2 or parameter in seen:
                found.add(parameter)
            seen.add(parameter)
    return found


def _bytes(module: nn.Module, whole: set[nn.Parameter]) -> int:
    return sum(part.nbytes for part in module.parameters() if part not in whole)


def _blocks(module: nn.Module, whole: set[nn.Parameter], most: int) -> Iterator[nn.Module]:
    """Modules that are gathered as one: the outermost of `most` bytes or less, and smaller parts
    that cannot be divided.
    """
    for child in module.children():
        size = _bytes(child, whole)
        if size == 0:
            continue
        # whoever owns one of these may ask its members one by one, or only some of them
        contains = isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        # attention reads its members' weights without asking them
        divides = any(_bytes(part, whole) for part in child.children()) and not isinstance(
            child, nn.MultiheadAttention
        )
        if contains or (divides and size > most):
            yield from _blocks(child, whole, most)
        else:
            yield child


def _lay_out(convolution: nn.Conv2d) -> None:
    """Has a convolution read its gathered kernels in the layout of those of a whole network."""
    own: Any = convolution._conv_forward  # noqa: SLF001  what `forward` gives its weights to

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        # a copy: of one channel, or of 1x1, a kernel counts as laid out either way, strides differ
        laid = torch.empty_like(weight, memory_format=torch.channels_last).copy_(weight)
        return own(x, laid, bias)

    convolution._conv_forward = convolve  # type: ignore[assignment]  # noqa: SLF001


def _ask_together(network: Network, ranks: Ranks) -> None:
    """Has the other ranks follow where the first asks alone, and the network answer without
    gradient.
    """
    own, number = network.forward, ranks.following.add(network)

    def forward(x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        # what is gathered into outlives this call: no inference tensors
        with torch.inference_mode(mode=False), torch.no_grad():
            ranks.following.lead(number, x, taps)
            try:
                return own(x, taps)
            except RuntimeError as error:
                if "DTensor" not in str(error):
                    raise
                name = getattr(network, "name", type(network).__name__)
                raise Incompatible(
                    f"{name} cannot be sharded: it reads weights of a layer that it does not call",
                    hint="leave runtime.shard_teacher out",
                ) from error

    network.forward = forward  # type: ignore[method-assign]  # of this object
