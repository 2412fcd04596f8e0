"""The loss on singular vectors of maps, and their gradient."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import full_precision
from kdcli.losses._maps import map_pairs
from kdcli.losses.feature import _equal_channels

_SPARE = 3  # vectors of the student beyond the teacher's, one of which may fit better
_WIDTH = 8.0  # of the radial basis function, 2 sigma^2 with sigma = 2
# singular values whose squares differ by less than this share of the largest count as equal
_CLOSE = 1e-4


def kdsvd(s_maps: Sequence[Tensor], t_maps: Sequence[Tensor], *, vectors: int = 1) -> Tensor:
    """How the main directions of one layer's channels lie to those of the next.

        sum over neighbours (a, b) of mean over B of sum over c, c', k of ( R_s - R_t )^2,
        R_cc'k = exp( -(v_b,ck - v_a,c'k)^2 / 8 )

    v_a are the first right singular vectors of a map as a matrix [positions, channels], multiplied
    by the teacher's singular values divided by their norm. Each of the teacher's is met by that
    student's among its first vectors + 3 which is most parallel, turned the same way. Source: Lee,
    Kim, Song 2018, Self-supervised knowledge distillation using singular value decomposition,
    section 3; RepDistiller@1e2f8169 distiller_zoo/KDSVD.py. Differs: a teacher's vector points to
    where its sum is positive, which a decomposition leaves open; and the gradient of vectors whose
    singular values are nearly equal is damped, where it has no bound.

    Args:
        s_maps: two or more student maps [B,C,H,W] in the order of the network.
        t_maps: as many teacher maps with the same channels, sizes may differ; no gradient reaches
            them.
        vectors: of each map, at least 1.

    Raises:
        Incompatible: unequal numbers of maps, fewer than two, or different channels.
        UsageError: vectors below 1.
    """
    if vectors < 1:
        raise UsageError(f"losses.kdsvd: vectors must be at least 1, got {vectors}")
    pairs = map_pairs(s_maps, t_maps, "kdsvd")
    if len(pairs) < 2:
        raise Incompatible("losses.kdsvd compares neighbouring maps and needs at least two")
    found = []
    for s, t in pairs:
        _equal_channels(s, t, "kdsvd")
        found.append(_directions(s, t, vectors))
    terms = [
        (_basis(s_next, s) - _basis(t_next, t)).square().sum((1, 2, 3)).mean()
        for (s, t), (s_next, t_next) in pairwise(found)
    ]
    return torch.stack(terms).sum()


def _basis(a: Tensor, b: Tensor) -> Tensor:
    """Vectors [B,C,k] and [B,C',k] to [B,C,C',k]."""
    return (-(a.unsqueeze(2) - b.unsqueeze(1)).square() / _WIDTH).exp()


def _directions(s: Tensor, t: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The scaled vectors [B,C,count] of a pair of maps, the student's turned to the teacher's."""
    with full_precision(t):
        _, sizes, rows = torch.linalg.svd(_matrix(t), full_matrices=False)
        theirs = rows[:, :count].transpose(1, 2)
        sizes = sizes[:, :count]
        sums = theirs.sum(1, keepdim=True)
        theirs = torch.where(sums < 0, -theirs, theirs)
        ours: Tensor = _RightVectors.apply(_matrix(s), count + _SPARE)
        cosines = torch.bmm(ours.detach().transpose(1, 2), theirs)
        best = cosines.abs().argmax(1, keepdim=True)  # [B,1,k], of the student's vectors
        signs = cosines.gather(1, best).sign()
        ours = ours.gather(2, best.expand(-1, ours.shape[1], -1)) * signs
    scale = torch.nn.functional.normalize(sizes, dim=1).unsqueeze(1)
    # a small map may have fewer positions than vectors are wanted
    kept = min(ours.shape[2], theirs.shape[2])
    return ours[:, :, :kept] * scale[:, :, :kept], theirs[:, :, :kept] * scale[:, :, :kept]


def _matrix(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # [B,HW,C]


class _RightVectors(torch.autograd.Function):
    """The first right singular vectors [B,C,count] of matrices [B,M,C], with a bounded gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> Tensor:
        _, sizes, rows = torch.linalg.svd(x, full_matrices=False)
        ctx.save_for_backward(x, sizes, rows)
        vectors: Tensor = rows[:, :count].transpose(1, 2)
        return vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # v_i moves toward v_j by v_j^T dG v_i / (l_i - l_j), G = X^T X with eigenvalues l = s^2;
        # what lies outside of all vectors has the eigenvalue 0
        (g,) = gradients
        x, sizes, rows = ctx.saved_tensors
        count, values = g.shape[2], sizes.square()
        apart = values[:, None, :count] - values[:, :, None]  # [B,r,count], l_i - l_j
        limit = _CLOSE * values[:, :1]
        inside = rows @ g  # v_j^T g_i
        turned = rows.transpose(1, 2) @ (inside * _inverse(apart, limit[:, :, None]))
        outside = g - rows.transpose(1, 2) @ inside
        turned = turned + outside * _inverse(values[:, None, :count], limit[:, :, None])
        product = turned @ rows[:, :count]  # dL/dG, not symmetric yet
        return x @ (product + product.transpose(1, 2)), None


def _inverse(x: Tensor, limit: Tensor) -> Tensor:
    """1 / x where x is far above the limit, and 0 at 0."""
    return x / (x.square() + limit.square()).clamp_min(torch.finfo(x.dtype).tiny)
