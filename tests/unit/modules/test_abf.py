"""The fusion of knowledge review."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdcli.modules.abf import ABF


def maps(seed, channels, height, width, images=2):
    return torch.randn(
        images,
        channels,
        height,
        width,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )


def unit_norms(module):
    """In eval mode with fresh statistics a batch norm divides by sqrt(1 + 1e-5)."""
    return module.double().eval()


SHRINK = (1 + 1e-5) ** -0.5


def test_a_level_is_mixed_with_the_deeper_ones_position_by_position():
    torch.manual_seed(0)
    fusion = unit_norms(ABF(3, 4, 5, fuses=True))
    x, deeper = maps(0, 3, 4, 6), maps(1, 4, 2, 3)
    passed, out = fusion(x, deeper, torch.Size((4, 6)))
    reduced = torch.einsum("mc,bchw->bmhw", fusion.reduce[0].weight[:, :, 0, 0], x) * SHRINK
    below = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    gate = fusion.attention[0]
    both = torch.cat([reduced, below], 1)
    a = 1 / (
        1
        + torch.exp(
            -torch.einsum("ac,bchw->bahw", gate.weight[:, :, 0, 0], both)
            - gate.bias.view(1, 2, 1, 1)
        )
    )
    expected = a[:, :1] * reduced + a[:, 1:] * below
    torch.testing.assert_close(passed, expected)
    torch.testing.assert_close(
        out, functional.conv2d(expected, fusion.expand[0].weight, padding=1) * SHRINK
    )


def test_the_deepest_level_has_nothing_to_mix():
    fusion = unit_norms(ABF(3, 4, 5, fuses=False))
    passed, out = fusion(maps(0, 3, 1, 1), None, torch.Size((1, 1)))
    assert fusion.attention is None
    torch.testing.assert_close(
        passed,
        torch.einsum("mc,bchw->bmhw", fusion.reduce[0].weight[:, :, 0, 0], maps(0, 3, 1, 1))
        * SHRINK,
    )
    assert out.shape == (2, 5, 1, 1)


@pytest.mark.parametrize("size", [(8, 8), (2, 2), (3, 5)])
def test_it_comes_out_in_the_teachers_size(size):
    passed, out = ABF(3, 4, 5, fuses=True).double()(
        maps(0, 3, 4, 4), maps(1, 4, 7, 1), torch.Size(size)
    )
    assert passed.shape == (2, 4, *size)
    assert out.shape == (2, 5, *size)


def test_the_pooled_vector_of_an_only_image_can_be_trained_on():
    fusion = ABF(3, 4, 5, fuses=False).double().train()
    _, out = fusion(maps(0, 3, 1, 1, images=1), None, torch.Size((1, 1)))
    out.sum().backward()
    assert out.isfinite().all()
    assert fusion.expand[0].weight.grad.isfinite().all()
