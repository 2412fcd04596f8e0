"""Running a network without computing anything: on meta tensors, which have shapes and no values."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


def dry_run(module: nn.Module, input_shape: tuple[int, int, int], *arguments: Any) -> Any:
    """What a module returns for a batch of two pictures, as meta tensors. The module itself is not touched.

    Two pictures, not one: a batch norm in training mode refuses a single value a channel.

    Args:
        module: on any device, in any mode.
        input_shape: channels, height, width.
        arguments: what its forward takes after the pictures.
    """
    tensors = {name: tensor.to("meta") for name, tensor in chain(module.named_parameters(), module.named_buffers())}
    x = torch.empty(2, *input_shape, device="meta")
    with torch.no_grad():
        return functional_call(module, tensors, (x, *arguments))
