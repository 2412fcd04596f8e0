"""The regressor: the teacher's channels and, but for a pixel, its size, for every ratio of
strides.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdcli.core.types import Tap
from kdcli.errors import Incompatible
from kdcli.modules.regressor import Regressor


def maps(side, channels=3):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "kernel"),
    [
        (1, 1, nn.Conv2d, (1, 1)),
        (4, 4, nn.Conv2d, (1, 1)),
        (4, 8, nn.Conv2d, (3, 3)),
        (8, 4, nn.ConvTranspose2d, (4, 4)),
        (1, 4, nn.Conv2d, (1, 1)),
        (2, 3, nn.Conv2d, (1, 1)),
    ],
)
def test_a_student_map_comes_out_in_the_teachers_shape(ours, theirs, kind, kernel):
    regressor = Regressor(Tap(3, ours), Tap(5, theirs))
    assert type(regressor.conv) is kind
    assert regressor.conv.kernel_size == kernel
    assert regressor.conv.bias is not None
    assert regressor(maps(48 // ours)).shape == (2, 5, 48 // theirs, 48 // theirs)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 2), (4, 8), (4, 16), (16, 16)])
def test_sides_that_do_not_divide_come_out_as_a_network_rounds_them(ours, theirs):
    # 28 pixels: 28, 14, 7, 4, 2 where every stage halves and rounds up
    side = {1: 28, 2: 14, 4: 7, 8: 4, 16: 2}
    assert (
        Regressor(Tap(3, ours), Tap(5, theirs))(maps(side[ours])).shape[2:] == (side[theirs],) * 2
    )


def test_what_the_strides_cannot_settle_is_left_to_the_loss():
    assert Regressor(Tap(3, 8), Tap(5, 4))(maps(4)).shape[2:] == (8, 8)  # the teacher's is 7
    # a teacher four times as large stays for the loss to pool
    assert Regressor(Tap(3, 8), Tap(5, 2))(maps(4)).shape[2:] == (
        4,
        4,
    )


def test_other_ratios_pool_the_larger_student_map_first():
    regressor = Regressor(Tap(3, 1), Tap(5, 4), relu=False, norm=False)
    x = maps(8)
    torch.testing.assert_close(regressor(x), regressor.conv(functional.avg_pool2d(x, 4)))


@pytest.mark.parametrize("relu", [True, False])
def test_the_relu_is_a_choice(relu):
    out = Regressor(Tap(3, 1), Tap(5, 1), relu=relu)(maps(8))
    assert (out.min() >= 0) == relu


@pytest.mark.parametrize("norm", [True, False])
def test_the_batch_norm_is_a_choice(norm):
    regressor = Regressor(Tap(3, 1), Tap(5, 1), norm=norm, relu=False)
    assert any(isinstance(module, nn.BatchNorm2d) for module in regressor.modules()) == norm
    regressor(maps(8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in regressor.parameters())


@pytest.mark.parametrize(("ours", "theirs"), [(None, 4), (4, None), (None, None)])
def test_vectors_are_refused(ours, theirs):
    with pytest.raises(
        Incompatible, match="connects two feature maps, and one of these taps is a vector"
    ):
        Regressor(Tap(3, ours), Tap(5, theirs))
