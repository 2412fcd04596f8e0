"""What a network costs: parameters, and multiply-accumulate operations an image."""

from __future__ import annotations

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdcli.models._meta import dry_run


def parameter_count(network: nn.Module) -> int:
    """Number of parameters, trainable or frozen; running statistics do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image of shape (C, H, W).

    Nothing is computed: the network runs on meta tensors. Normalisations, activations and pools are not counted, as is usual.
    """
    with FlopCounterMode(display=False) as counter:
        dry_run(network, input_shape)
    return int(counter.get_total_flops()) // 2  # two operations a multiply-accumulate
