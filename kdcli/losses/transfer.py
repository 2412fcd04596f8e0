"""Losses that come with a construction around them: flow matrices, activation boundaries, factors,
softmax regression, margins, review.

What is trained beside the student (connectors, paraphraser, translator, fusion) is the caller's:
these functions get maps and vectors that are comparable already.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import full_precision, positive, precise, unit
from kdcli.losses._maps import map_pair, map_pairs, same_size, vector_pair
from kdcli.losses.feature import _attention, _equal_channels

FactorForm = Literal["code", "paper"]

# a channel that is negative more rarely than this has its margin three deviations below zero
_RARE = 1e-3
_LEAST_DEVIATION = 1e-6
# sides of the pooled copies of a level that are compared beside the level itself
_REVIEW_SIDES = (
    4,
    2,
    1,
)


def fsp(s_maps: Sequence[Tensor], t_maps: Sequence[Tensor]) -> Tensor:
    """Flow of solution procedure: how the channels of one layer go together with those of the next.

        sum over neighbours (a, b) of mean over B, c, c' of (G_s - G_t)^2,  G = (1 / HW) sum_hw
        a_c,hw b_c',hw

    where the larger of a and b is average-pooled to the smaller first. Source: Yim et al. 2017, A
    gift from knowledge distillation, equations 1 and 2; RepDistiller@5237c1fd distiller_zoo/FSP.py.
    Differs from the paper: a mean over the entries of G instead of their sum, as that code.

    Args:
        s_maps: two or more student maps [B,C,H,W] in the order of the network.
        t_maps: as many teacher maps with the same channels, sizes may differ; no gradient reaches
            them.

    Raises:
        Incompatible: unequal numbers of maps, fewer than two, or different channels.
    """
    pairs = map_pairs(s_maps, t_maps, "fsp")
    if len(pairs) < 2:
        raise Incompatible(
            "losses.fsp compares the flow between neighbouring maps and needs at least two"
        )
    for s, t in pairs:
        _equal_channels(s, t, "fsp")
    flows = [(_flow(s, s_next), _flow(t, t_next)) for (s, t), (s_next, t_next) in pairwise(pairs)]
    return torch.stack([(ours - theirs).square().mean() for ours, theirs in flows]).sum()


def _flow(a: Tensor, b: Tensor) -> Tensor:
    a, b = same_size(a, b)
    with full_precision(a):
        return torch.bmm(a.flatten(2), b.flatten(2).transpose(1, 2)) / a[0, 0].numel()


def ab(s_maps: Sequence[Tensor], t_maps: Sequence[Tensor], *, margin: float) -> Tensor:
    """Activation boundaries: every student neuron on its teacher's side of zero, and beyond the
    margin there.

        (1 / B) sum_i 2^(i - n) sum over C, H, W of ( max(m - s, 0) where t > 0, max(s + m, 0)
        elsewhere )^2,  i = 1..n

    Source: Heo et al. 2019, Knowledge transfer via distillation of activation boundaries formed by
    hidden neurons, its piecewise differentiable loss; RepDistiller@5237c1fd distiller_zoo/AB.py,
    whose constant 3 / 1000 is the method's weight here.

    Args:
        s_maps: student maps before their activations [B,C,H,W], shallow to deep.
        t_maps: as many teacher maps before their activations, of the same channels; no gradient
            reaches them.
        margin: m > 0.

    Raises:
        Incompatible: unequal numbers of maps, or different channels.
        UsageError: a margin that is not above 0.
    """
    m = positive(margin, "margin", "ab")
    levels = []
    for s, t in _fitted(s_maps, t_maps, "ab"):
        short = torch.where(t > 0, m - s, s + m).relu()
        levels.append(short.square().sum() / len(s))
    return _deepest_first(levels)


def _fitted(
    s_maps: Sequence[Tensor], t_maps: Sequence[Tensor], function: str
) -> list[tuple[Tensor, Tensor]]:
    pairs = [same_size(s, t) for s, t in map_pairs(s_maps, t_maps, function)]
    for s, t in pairs:
        _equal_channels(s, t, function)
    return pairs


def _deepest_first(levels: Sequence[Tensor]) -> Tensor:
    """The sum in which the deepest level, the last, counts once and each one before it half as much
    as the next.
    """
    return torch.stack([level / 2**above for above, level in enumerate(reversed(levels))]).sum()


def ft(factor_s: Tensor, factor_t: Tensor, *, form: FactorForm = "code", p: int = 1) -> Tensor:
    """Factor transfer: the student's factor against the one that the paraphraser made of the
    teacher's map.

        mean over the entries of |Q_s - Q_t|^p
        code:   Q(f) = m / |m|_2 with m = flatten(mean_c f_c^2)      where the factor is large
        paper:  Q(f) = f / |f|_2 with f flattened                    the signed factor itself

    Source: Kim, Park, Kwak 2018, Paraphrasing complex network: network compression via factor
    transfer; RepDistiller@5237c1fd distiller_zoo/FT.py is the form "code". Differs from the paper:
    a mean instead of a sum. A factor that is zero everywhere has Q = 0.

    Args:
        factor_s: of the student [B,C,H,W].
        factor_t: of the teacher; channels may differ for "code" only, sizes may; no gradient
            reaches it.
        form: which Q.
        p: 1 or 2.

    Raises:
        Incompatible: no maps of the same images, or different channels for "paper".
        UsageError: an unknown form, or another p.
    """
    s, t = same_size(*map_pair(factor_s, factor_t, "ft"))
    if p not in {1, 2}:
        raise UsageError(f"losses.ft: p must be 1 or 2, got {p}")
    if form == "code":
        difference = _attention(s, 2) - _attention(t, 2)
    elif form == "paper":
        _equal_channels(s, t, "ft")
        difference = unit(s.flatten(1)) - unit(t.flatten(1))
    else:
        raise UsageError(f'losses.ft: form must be "code" or "paper", got {form!r}')
    return (difference.abs() if p == 1 else difference.square()).mean()


def srrl_features(h_s: Tensor, h_t: Tensor) -> Tensor:
    """Softmax regression representation learning, first term: the vectors that feed the heads.

        mean over B, D of (h_s - h_t)^2

    Source: Yang et al. 2021, Knowledge distillation via softmax regression representation learning,
    its feature matching; KD_SRRL@051ccc11.

    Args:
        h_s: the student's connected and pooled map [B,D].
        h_t: what the teacher's head reads [B,D]; no gradient reaches it.

    Raises:
        Incompatible: not the same images, or different D.
    """
    s, t = vector_pair(h_s, h_t, "srrl_features")
    if s.shape != t.shape:
        raise Incompatible(
            f"losses.srrl_features compares vectors of one length, got {s.shape[1]} and "
            f"{t.shape[1]}"
        )
    return (s - t).square().mean()


def srrl(h_s: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax regression representation learning, second term: what the teacher's head makes of the
    student's vector.

        mean over B, K of (W h_s + b - v)^2

    Source: Yang et al. 2021, its softmax regression with the squared error between logits, as in
    KD_SRRL@051ccc11. The gradient flows through the head to h_s; the head itself and v get none.

    Args:
        h_s: the student's connected and pooled map [B,D].
        v: teacher logits [B,K].
        weight: W [K,D] of the teacher's head. bias: b [K], or None.

    Raises:
        Incompatible: shapes that do not fit.
    """
    if (
        h_s.ndim != 2
        or v.shape != (h_s.shape[0], weight.shape[0])
        or weight.shape[1] != h_s.shape[1]
        or len(v) == 0
    ):
        shapes = f"{list(h_s.shape)}, {list(v.shape)} and {list(weight.shape)}"
        raise Incompatible(
            f"losses.srrl needs vectors [B, D], logits [B, K] and a head [K, D], got {shapes}"
        )
    h, w = precise(h_s), precise(weight.detach())
    with full_precision(h):
        crossed = functional.linear(h, w, None if bias is None else precise(bias.detach()))
    return (crossed - precise(v.detach())).square().mean()


def ofd_margins(weight: Tensor, bias: Tensor) -> Tensor:
    """The margin of each channel for `ofd`: what a neuron before its ReLU is on average, where it
    is negative.

        m = E[x | x < 0] = b - s phi(b/s) / Phi(-b/s)  if Phi(-b/s) > 0.001, else -3 s,  x ~ N(b,
        s^2), s = |gamma|

    Source: Heo et al. 2019, A comprehensive overhaul of feature distillation, its margin ReLU;
    overhaul-distillation@76344a84 distiller.py. Differs: s is at least 1e-6, where that code
    divides by zero.

    Args:
        weight: gamma [C] of the teacher's batch norm before that ReLU.
        bias: b [C] of it.

    Returns:
        [C], below zero, without gradient.
    """
    s, b = precise(weight.detach()).abs().clamp_min(_LEAST_DEVIATION), precise(bias.detach())
    score = b / s
    density = (-score.square() / 2).exp() / (2 * torch.pi) ** 0.5
    share = torch.special.ndtr(-score)
    return torch.where(share > _RARE, b - s * density / share.clamp_min(_RARE), -3 * s)


def ofd(s_maps: Sequence[Tensor], t_maps: Sequence[Tensor], margins: Sequence[Tensor]) -> Tensor:
    """Overhaul of feature distillation: a partial distance to the teacher's margin ReLU.

        (1 / B) sum_i 2^(i - n) sum over C, H, W of (s - u)^2 where s > u or t > 0,  u = max(t,
        m_c),  i = 1..n

    Where the teacher is negative, a student that is lower still is right and costs nothing. Source:
    Heo et al. 2019, A comprehensive overhaul of feature distillation, its partial L2 distance;
    overhaul-distillation@76344a84 CIFAR-100/distiller.py and mdistiller@e8c5bb33
    mdistiller/distillers/OFD.py compute the same number, but for the constant 1 / 1000, which is
    the method's weight here.

    Args:
        s_maps: student maps before their activations, through their connectors [B,C,H,W], shallow
            to deep.
        t_maps: as many teacher maps before their activations; no gradient reaches them.
        margins: [C] for each map, below zero: `ofd_margins`.

    Raises:
        Incompatible: unequal numbers of maps or margins, or different channels.
    """
    pairs = _fitted(s_maps, t_maps, "ofd")
    if [tuple(m.shape) for m in margins] != [(t.shape[1],) for _, t in pairs]:
        raise Incompatible(
            "losses.ofd needs a margin for each channel of each teacher map, got shapes "
            f"{[list(m.shape) for m in margins]}"
        )
    levels = []
    for (s, t), m in zip(pairs, margins, strict=True):
        target = torch.maximum(t, precise(m.detach()).view(1, -1, 1, 1))
        wrong = (s > target) | (t > 0)
        levels.append((s - target).square().mul(wrong).sum() / len(s))
    return _deepest_first(levels)


def hcl(s_maps: Sequence[Tensor], t_maps: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss: levels compared as they are and pooled.

        sum over levels of ( MSE(s, t) + sum_j 2^-j MSE(pool_j(s), pool_j(t)) ) / ( 1 + sum_j 2^-j )

    where pool_j averages to 4x4, 2x2 and 1x1 for j = 1, 2, 3, those left out (and not counted) that
    are not smaller than the map.
    Source: Chen et al. 2021, Distilling knowledge via knowledge review; ReviewKD@6607308a and
    mdistiller@e8c5bb33 mdistiller/distillers/ReviewKD.py.

    Args:
        s_maps: student maps [B,C,H,W].
        t_maps: teacher maps of the same shapes; no gradient reaches them.

    Raises:
        Incompatible: unequal numbers of maps, or different shapes.
    """
    pairs = map_pairs(s_maps, t_maps, "hcl")
    for s, t in pairs:
        if s.shape != t.shape:
            raise Incompatible(
                f"losses.hcl compares maps of one shape, got {list(s.shape)} and {list(t.shape)}"
            )
    return torch.stack([_hierarchical(s - t) for s, t in pairs]).sum()


def _hierarchical(difference: Tensor) -> Tensor:
    # pooling is linear: the difference is pooled once instead of either map
    sides = [side for side in _REVIEW_SIDES if side < min(difference.shape[2:])]
    weights = [2.0**-j for j in range(len(sides) + 1)]
    errors = [
        difference.square().mean(),
        *(functional.adaptive_avg_pool2d(difference, side).square().mean() for side in sides),
    ]
    return torch.stack(
        [weight * error for weight, error in zip(weights, errors, strict=True)]
    ).sum() / sum(weights)
