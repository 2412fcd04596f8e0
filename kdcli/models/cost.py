"""The cost of a network: multiply-accumulate operations an image, and how many of them go into a
value.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdcli.models._meta import dry_run, evaluating


def macs(network: nn.Module, input_shape: tuple[int, int, int], image: Tensor | None = None) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image of shape (C, H, W).

    Nothing is computed: the network runs on meta tensors. Normalisations, activations and pools are
    not counted, as is usual.

    Args:
        network: on any device.
        input_shape: (C, H, W).
        image: an image [1,C,H,W] on the network's device, to run on instead: for a network that is
            about to run anyway, since on meta tensors torch imports its compiler for some
            operations, which takes a second or two.
    """
    with _Operations() as counter:  # type: ignore[no-untyped-call]
        if image is None:
            dry_run(network, input_shape)
        else:
            with evaluating(network):
                network(image)
    return int(counter.total) // 2  # two operations a multiply-accumulate


def density(network: nn.Module, image: Tensor) -> float:
    """Multiply-accumulates for each value that a convolution or a matrix product makes, of one
    image [1,C,H,W] on the network's device.

    Low for depthwise and narrow convolutions, which move more than they compute. Infinite where
    there are none.
    """
    with _Operations() as counter, evaluating(network):  # type: ignore[no-untyped-call]
        network(image)
    return counter.total / 2 / counter.values if counter.values else math.inf


_aten = torch.ops.aten
# place of the left factor among the arguments
_PRODUCTS = {_aten.mm: 0, _aten.addmm: 1, _aten.bmm: 0, _aten.baddbmm: 1}
_CONVOLUTIONS = {_aten.convolution, _aten._convolution, _aten.cudnn_convolution}  # noqa: SLF001


def _operations(function: Any, args: Any, kwargs: Any, out: Tensor) -> int | None:
    """Operations of a convolution or a matrix product, two a multiply-accumulate; None of others.

    Products and convolutions are counted here, all others by torch's own table of formulas: to
    import it imports triton, which takes 76 MiB and a sixth of the time that kd takes to load.
    """
    if function in _PRODUCTS:
        return 2 * out.numel() * int(args[_PRODUCTS[function]].shape[-1])
    if function in _CONVOLUTIONS:
        x, weight, transposed = args[0], args[1], args[6]
        places = math.prod((x if transposed else out).shape[2:])
        return 2 * int(x.shape[0]) * places * int(weight.numel())
    if "attention" not in str(function) and "_scaled_mm" not in str(function):
        return None
    from torch.utils.flop_counter import flop_registry as formulas

    formula = formulas.get(function)
    return None if formula is None else int(formula(*args, **kwargs, out_val=out))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds operations up, as torch's FlopCounterMode does, which imports the compiler too."""

    total = 0  # operations
    values = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.lstm:
            # one kernel, for which torch has no formula: each token meets every weight once
            tokens = math.prod(args[0].shape[:2])
            matrices = [weight for weight in args[2] if weight.dim() == 2]
            self.total += 2 * tokens * sum(weight.numel() for weight in matrices)
            self.values += tokens * sum(weight.shape[0] for weight in matrices)
        elif func.overloadpacket is torch.ops.aten.mkldnn_rnn_layer:
            tokens = math.prod(args[0].shape[:2])
            self.total += 2 * tokens * sum(weight.numel() for weight in args[1:3])
            self.values += tokens * sum(weight.shape[0] for weight in args[1:3])
        elif (found := _operations(func.overloadpacket, args, kwargs or {}, out)) is not None:
            self.total += found
            self.values += out.numel()
        return out
