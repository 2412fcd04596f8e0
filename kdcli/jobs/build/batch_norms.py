"""Refuses minibatches of one image where networks have batch norms, before training starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdcli import formatting
from kdcli.core.method import Method
from kdcli.engine.evaluator import evaluating
from kdcli.errors import Incompatible


def check(method: Method, images: int, batch_size: int, shape: Sequence[int]) -> None:
    """Refuses what batch norms cannot be trained with.

    Args:
        images: to train on; the last minibatch of an epoch has what is left of them.
        shape: of one image, [C,H,W].

    Raises:
        Incompatible: a minibatch has one image, and a norm that is trained would see nothing else.
    """
    last = images % batch_size
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
    if not norms or 1 not in {batch_size, last}:
        return
    if batch_size == 1:
        raise Incompatible(
            f"train.batch_size is 1, and {formatting.plural(len(norms), 'batch norm', ' ')} would "
            "take each image for a whole set: nothing comes of that",
            hint="-s train.batch_size=2 or more, or a network without batch norms",
        )
    if _sees_one_value(method.deployable(), shape):
        raise Incompatible(
            f"the last minibatch of an epoch would have 1 of {images} images, "
            "and a batch norm would see one value a channel",
            hint=f"-s train.batch_size={batch_size + 1}, or another number that leaves more",
        )


def _sees_one_value(network: nn.Module, shape: Sequence[int]) -> bool:
    """Tells whether a batch norm of a network sees one number a channel where it is shown one
    image.
    """
    found: list[bool] = []

    def note(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0]  # [1,C] or [1,C,H,W]
        found.append(x.numel() == x.shape[1])

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    hooks = [module.register_forward_pre_hook(note) for module in norms]
    parameter = next(network.parameters())
    try:
        with torch.no_grad(), evaluating(network):
            network(torch.zeros(1, *shape, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return any(found)
