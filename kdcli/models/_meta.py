"""Looking at a network without training it or computing with it: meta tensors have shapes and no
values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; afterwards every submodule is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def dry_run(module: nn.Module, input_shape: tuple[int, int, int], *arguments: Any) -> Any:
    """The output of a module for one picture, as meta tensors. The module itself is not touched.

    In eval mode: there it is the same function, and its batch norms run several times faster on
    meta tensors.

    Args:
        module: on any device, in any mode.
        input_shape: channels, height, width.
        arguments: what its forward takes after the picture.
    """
    tensors = {
        name: tensor.to("meta")
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
    }
    x = torch.empty(1, *input_shape, device="meta")
    with evaluating(module):
        return functional_call(module, tensors, (x, *arguments))


def stride_of(height: int, size: int) -> int:
    """Input pixels a position of a map: the power of two that gives its size, or the quotient where
    a pool rounded down.
    """
    powers = (2**exponent for exponent in range(height.bit_length() + 1))
    return next((stride for stride in powers if -(-height // stride) == size), -(-height // size))
