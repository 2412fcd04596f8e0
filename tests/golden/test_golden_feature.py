"""Losses of the methods on features against plain loops in float64, and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcli.core.types import Tap
from kdcli.modules.reused_head import Projector


def noise(seed: int, *shape: int) -> Tensor:
    """Normal float64 numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: float) -> None:
    torch.testing.assert_close(found.item(), float(expected), rtol=1e-6, atol=1e-9)


def checked(loss, *students: Tensor) -> None:
    """The gradient of a loss with respect to what comes from the student is right."""
    assert torch.autograd.gradcheck(loss, [s.clone().requires_grad_() for s in students])


# ---- simkd ---------------------------------------------------------------------------------------


def test_simkd_projects_by_three_convolutions_as_written_out():
    projector = Projector(Tap(2, 1), Tap(4, 2), inner=3).double().eval()
    for module in projector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(noise(7, module.num_features))
            module.running_var.copy_(noise(8, module.num_features).square() + 0.5)
    x = noise(0, 2, 2, 6, 4)
    # stride 1 against 2: the student's map is averaged over squares of 2x2 first
    small = x.reshape(2, 2, 3, 2, 2, 2).mean((3, 5))
    for conv, norm in ((0, 1), (3, 4), (6, 7)):
        w = projector.layers[conv].weight
        k, pad = w.shape[-1], w.shape[-1] // 2
        wide = torch.zeros(2, w.shape[1], 3 + 2 * pad, 2 + 2 * pad, dtype=torch.float64)
        wide[:, :, pad : pad + 3, pad : pad + 2] = small
        small = torch.stack(
            [
                torch.stack(
                    [
                        torch.einsum("bcij,ocij->bo", wide[:, :, i : i + k, j : j + k], w)
                        for j in range(2)
                    ],
                    -1,
                )
                for i in range(3)
            ],
            -2,
        )
        n = projector.layers[norm]
        mean, var = n.running_mean.view(1, -1, 1, 1), n.running_var.view(1, -1, 1, 1)
        small = ((small - mean) / (var + n.eps).sqrt()).clamp(min=0)
    torch.testing.assert_close(projector(x), small, rtol=1e-6, atol=1e-9)
    checked(projector, x[:1, :, :4])
