"""The moving average is torch's, to the last bit, and asks nothing of the device."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdcli.engine.ema import MovingAverage


def test_it_is_torchs_own():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    ours, torchs = (
        MovingAverage(network, 0.9),
        AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    )
    for step in range(4):
        with torch.no_grad():
            for tensor in (
                *network.parameters(),
                *(buffer for buffer in network.buffers() if buffer.is_floating_point()),
            ):
                tensor.copy_(
                    torch.randn(tensor.shape, generator=torch.Generator().manual_seed(step))
                )
        network[1].num_batches_tracked += 1
        for average in (ours, torchs):
            average.update_parameters(network)
        assert ours.state_dict().keys() == torchs.state_dict().keys()
        assert all(
            torch.equal(ours.state_dict()[key], value) for key, value in torchs.state_dict().items()
        )


def test_the_number_of_updates_stays_on_the_cpu():
    network = nn.Linear(2, 2, device="meta")
    average = MovingAverage(network, 0.9)
    for _ in range(2):
        average.update_parameters(network)  # meta tensors have no value that could be read
    assert average.n_averaged.device.type == "cpu"
    assert int(average.n_averaged) == 2


def test_a_network_without_buffers_has_an_average():
    network = nn.Linear(2, 2)
    average = MovingAverage(network, 0.5)
    average.update_parameters(network)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    average.update_parameters(network)
    torch.testing.assert_close(average.module.weight, before + 0.5)
