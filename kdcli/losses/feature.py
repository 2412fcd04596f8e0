"""Losses on feature maps [B,C,H,W]: hints, attention, variational information, neuron selectivity.

Student's and teacher's maps show the same images. Where their sizes differ, the larger is
average-pooled to the smaller (`same_size`); channels may differ unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import full_precision, precise
from kdcli.losses._maps import map_pair, map_pairs, same_size
from kdcli.losses.logit import _pearson

_LEAST_VARIANCE = 1e-5


def fitnet(s: Tensor, t: Tensor) -> Tensor:
    """The hint loss: mean square difference of two maps.

        mean over B, C, H, W of (s - t)^2

    Source: Romero et al. 2015, FitNets, equation 3; RepDistiller@5237c1fd distiller_zoo/FitNet.py
    computes the same number.
    Differs from the paper: a mean instead of half the squared norm.

    Args:
        s: student map after its regressor [B,C,H,W].
        t: teacher map [B,C,H',W']; no gradient reaches it.

    Raises:
        Incompatible: no maps of the same images, or different channels.
    """
    s, t = same_size(*map_pair(s, t, "fitnet"))
    _equal_channels(s, t, "fitnet")
    return (s - t).square().mean()


def at(s_maps: Sequence[Tensor], t_maps: Sequence[Tensor], *, p: float = 2.0) -> Tensor:
    """Attention transfer: where in the picture the energy of a layer lies.

        sum over maps of mean over B, H W of (Q_s - Q_t)^2,  Q(f) = m / |m|_2 with m =
        flatten(mean_c |f_c|^p)

    Source: Zagoruyko, Komodakis 2017, Paying more attention to attention, equation 2;
    attention-transfer@eb681595 utils.py and RepDistiller@5237c1fd distiller_zoo/AT.py compute the
    same number for p = 2. Differs from the paper, which sums norms of the
    differences: a mean of squares, as its authors' code. A map that is zero everywhere has Q = 0
    and gets no gradient.

    Args:
        s_maps: student maps [B,C,H,W].
        t_maps: as many teacher maps, channels and sizes may differ; no gradient reaches them.
        p: power of the absolute values, at least 1.

    Raises:
        Incompatible: unequal numbers of maps, or maps that are not of the same images.
        UsageError: p below 1.
    """
    if not p >= 1:
        raise UsageError(f"losses.at: p must be at least 1, got {p}")
    pairs = [same_size(s, t) for s, t in map_pairs(s_maps, t_maps, "at")]
    return torch.stack(
        [(_attention(s, p) - _attention(t, p)).square().mean() for s, t in pairs]
    ).sum()


def _attention(x: Tensor, p: float) -> Tensor:
    energy = x.square() if p == 2 else x.abs().pow(p)
    return functional.normalize(energy.mean(1).flatten(1), dim=1)


def vid(mean: Tensor, log_scale: Tensor, target: Tensor) -> Tensor:
    """Variational information distillation: how unlikely the teacher's map is under a Gaussian that
    the student predicts.

        mean over B, C, H, W of ( (mean - target)^2 / var_c + log var_c ) / 2,  var_c =
        softplus(log_scale_c) + 1e-5

    Source: Ahn et al. 2019, Variational information distillation for knowledge transfer, section 2,
    without the constant; RepDistiller@5237c1fd distiller_zoo/VID.py. The value can be negative.
    Differs: softplus instead of log(1 + exp), which overflows.

    Args:
        mean: predicted from the student's map [B,C,H,W].
        log_scale: [C], learnt: the variance of each of the teacher's channels before softplus.
        target: teacher map [B,C,H',W']; no gradient reaches it.

    Raises:
        Incompatible: no maps of the same images, or different channels.
    """
    mean, target = same_size(*map_pair(mean, target, "vid"))
    _equal_channels(mean, target, "vid")
    if log_scale.shape != mean.shape[1:2]:
        raise Incompatible(
            f"losses.vid needs one log_scale a channel, [{mean.shape[1]}], got "
            f"{list(log_scale.shape)}"
        )
    variance = (functional.softplus(precise(log_scale)) + _LEAST_VARIANCE).view(1, -1, 1, 1)
    return ((mean - target).square() / variance + variance.log()).mean() / 2


def nst(s_maps: Sequence[Tensor], t_maps: Sequence[Tensor]) -> Tensor:
    """Neuron selectivity transfer: maximum mean discrepancy between the channels of two maps, under
    the kernel <a, b>^2.

        sum over maps of M(t,t) + M(s,s) - 2 M(s,t),  M(a,b) = mean over B, c, c' of <a_c, b_c'>^2

    with every channel flattened over space and divided by its norm. Source: Huang, Wang 2017, Like
    what you like, section 4, with the polynomial kernel of degree 2; RepDistiller@5237c1fd
    distiller_zoo/NST.py. Differs: the Gram matrices of the channels are matrix products, the same
    number without its [B,C,C',HW]. The order of the channels does not matter. A channel that is
    zero everywhere gets no gradient.

    Args:
        s_maps: student maps [B,C,H,W].
        t_maps: as many teacher maps, channels and sizes may differ; no gradient reaches them.

    Raises:
        Incompatible: unequal numbers of maps, or maps that are not of the same images.
    """
    pairs = [same_size(s, t) for s, t in map_pairs(s_maps, t_maps, "nst")]
    return torch.stack([_discrepancy(_selectivity(s), _selectivity(t)) for s, t in pairs]).sum()


def _selectivity(x: Tensor) -> Tensor:
    return functional.normalize(x.flatten(2), dim=2)


def _discrepancy(s: Tensor, t: Tensor) -> Tensor:
    return _similarity(t, t) + _similarity(s, s) - 2 * _similarity(s, t)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    with full_precision(a):
        return torch.bmm(a, b.transpose(1, 2)).square().mean()


def map_correlations(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """How badly two maps correlate: over the channels at each place, and over the images of a
    minibatch, (channel, spatial).

        channel = 1 - mean over B, H W of r(s_b:hw, t_b:hw)
        spatial = 1 - mean over H W of r(S_:hw, T_:hw),   S = sum_c s_bc, [B,H W], and T alike

    r is Pearson's correlation as in `correlations`. Each lies between 0 and 2.

    Source: Huang et al. 2025, DIST+, the extension of DIST from logits to features; torchdistill
    1.1.4 torchdistill/losses/mid_level.py, DISTPlusLoss. Differs from that code, which adds the
    channels' correlation itself, so that a smaller one has a smaller loss: here 1 less it, as of
    the images. Places without spread are centred and not scaled, as in `correlations`.

    Args:
        s: student map after its connector [B,C,H,W].
        t: teacher map [B,C,H',W']; no gradient reaches it.

    Raises:
        Incompatible: no maps of the same images, different channels, or a batch of one.
    """
    s, t = same_size(*map_pair(s, t, "map_correlations"))
    _equal_channels(s, t, "map_correlations")
    if s.shape[0] < 2:
        raise Incompatible(
            "losses.map_correlations compares the images of a batch and needs at least two, got one"
        )
    channel = _pearson(*(x.movedim(1, -1).flatten(0, 2) for x in (s, t)))
    spatial = _pearson(*(x.sum(1).flatten(1).T for x in (s, t)))
    return 1 - channel.mean(), 1 - spatial.mean()


def _equal_channels(s: Tensor, t: Tensor, function: str) -> None:
    if s.shape[1] != t.shape[1]:
        raise Incompatible(
            f"losses.{function} compares channel by channel, got {s.shape[1]} and "
            f"{t.shape[1]} channels"
        )
