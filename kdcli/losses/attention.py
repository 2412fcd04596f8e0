"""Losses that weigh every pair of a student's and a teacher's maps by how well they belong
together. What the weights come from is trained, and the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.errors import Incompatible
from kdcli.losses._inputs import precise
from kdcli.losses._maps import map_pair, same_size
from kdcli.losses.feature import _attention, _equal_channels


def semckd(s_maps: Sequence[Sequence[Tensor]], t_maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Cross-layer distillation with semantic calibration: each picture's maps, each against all of
    the teacher's, by weights.

        mean over B, i of sum_j weights_bij mean over C, H, W of (s_ij - t_j)^2

    Source: Chen et al. 2021, Cross-layer distillation with semantic calibration, equation 7;
    SimKD@d0b9cded distiller_zoo/SemCKD.py computes the same number.

    Args:
        s_maps: for each student layer i, for each teacher layer j, its projection [B,C_j,H,W].
        t_maps: teacher maps [B,C_j,H',W']; the larger is average-pooled to the smaller; no gradient
            reaches them.
        weights: [B,i,j], with their gradient.

    Raises:
        Incompatible: numbers of maps or shapes that do not fit.
    """
    shape = (len(s_maps), len(t_maps))
    if not s_maps or any(len(row) != shape[1] for row in s_maps) or weights.shape[1:] != shape:
        raise Incompatible(
            "losses.semckd needs a projection and a weight for each pair of layers, got "
            f"{[len(row) for row in s_maps]} projections for {len(t_maps)} teacher layers and "
            f"weights {list(weights.shape)}"
        )
    rows = [
        torch.stack([_error(s, t, "semckd") for s, t in zip(row, t_maps, strict=True)], 1)
        for row in s_maps
    ]
    return (precise(weights) * torch.stack(rows, 1)).sum(2).mean()


def _error(s: Tensor, t: Tensor, function: str) -> Tensor:
    s, t = same_size(*map_pair(s, t, function))
    _equal_channels(s, t, function)
    return (s - t).square().mean((1, 2, 3))


def afd(s_maps: Sequence[Tensor], t_maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Show, attend and distill: where the energy of each teacher layer lies, against that of all
    student layers, by weights.

        sum_t mean over B of sum_s weights_bts mean over positions of ( Q(s pooled to t) - Q(t) )^2,
        Q(f) = m / |m|_2 with m = flatten(mean_c f_c^2)

    Source: Ji, Heo, Park 2021, Show, attend and distill, equation 6;
    attention-feature-distillation@42a3077e distill/AFD.py computes the same number.

    Args:
        s_maps: student maps [B,C,H,W]; their energies are average-pooled to each teacher map's
            size.
        t_maps: teacher maps of any channels and sizes; no gradient reaches them.
        weights: [B,t,s], with their gradient.

    Raises:
        Incompatible: no maps of the same images, or weights of another shape.
    """
    if not s_maps or not t_maps or weights.shape[1:] != (len(t_maps), len(s_maps)):
        raise Incompatible(
            f"losses.afd needs a weight for each of {len(t_maps)} teacher and {len(s_maps)} "
            f"student layers, got {list(weights.shape)}"
        )
    layers = []
    for t in t_maps:
        each = []
        for s in s_maps:
            s_map, t_map = map_pair(s, t, "afd")
            energy = functional.adaptive_avg_pool2d(
                s_map.square().mean(1, keepdim=True), (t_map.shape[2], t_map.shape[3])
            )
            ours = functional.normalize(energy.flatten(1), dim=1)
            each.append((ours - _attention(t_map, 2)).square().mean(1))
        layers.append(torch.stack(each, 1))
    return (precise(weights) * torch.stack(layers, 1)).sum((1, 2)).mean()
