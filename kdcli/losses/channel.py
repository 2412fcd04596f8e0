"""Losses on the channels of a map and on projected vectors: inter-channel correlation, channel-wise
distributions, class activation, generated features, projectors.

What is trained beside the student is the caller's: these functions get maps and vectors that are
comparable already.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.errors import Incompatible
from kdcli.losses._inputs import full_precision, positive, precise, unit
from kdcli.losses._maps import map_pair, same_size, vector_pair
from kdcli.losses.feature import _equal_channels


def srd(s: Tensor, t: Tensor, *, exponent: float = 4.0) -> Tensor:
    """The distance of a projected student from its teacher, in a logarithm that flattens it while
    it is large.

        log sum over B, D of |s - t|^exponent

    Source: Miles, Mikolajczyk 2024, Understanding the role of the projector in knowledge
    distillation, its LogSum; Simple-Recipe-Distillation@31e8477c
    imagenet/torchdistill/losses/single.py. Where both are equal the logarithm is that of the
    smallest number, and its gradient 0. It is of a sum over the batch, so that it is not the mean
    over parts of it.

    Args:
        s: projected and normalised student vectors [B,D].
        t: normalised teacher vectors [B,D]; no gradient reaches them.
        exponent: above 0.

    Raises:
        Incompatible: not the same images, or different D. UsageError: an exponent not above 0.
    """
    power = positive(exponent, "exponent", "srd")
    s, t = vector_pair(s, t, "srd")
    if s.shape != t.shape:
        raise Incompatible(
            f"losses.srd compares vectors of one length, got {s.shape[1]} and {t.shape[1]}"
        )
    distances = (s - t).abs().pow(power).sum()
    return distances.clamp_min(torch.finfo(distances.dtype).tiny).log()


def ickd(s: Tensor, t: Tensor) -> Tensor:
    """Inter-channel correlation: which channels of a map respond together.

        mean over B, c of sum over c' of ( G_s - G_t )^2,  G = <f_c, f_c'> over positions, each row
        divided by its norm

    Source: Liu et al. 2021, Exploring inter-channel correlation for diversity-preserved knowledge
    distillation, section 3.2; ICKD@04e1d3e1 Cifar100/distiller_zoo/ICKD.py computes the same
    number. Maps need not have one size. A row of zeros stays one.

    Args:
        s: student map [B,C,H,W]. t: teacher map [B,C,H',W']; no gradient reaches it.

    Raises:
        Incompatible: no maps of the same images, or different channels.
    """
    s, t = map_pair(s, t, "ickd")
    _equal_channels(s, t, "ickd")
    return (_correlation(s) - _correlation(t)).square().sum(2).mean()


def _correlation(x: Tensor) -> Tensor:
    x = x.flatten(2)
    with full_precision(x):
        return unit(torch.bmm(x, x.transpose(1, 2)))


def cwd(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    """Channel-wise distillation: where each channel responds, as a distribution over positions.

        tau^2 mean over B, c of KL( softmax over positions of t / tau || the same of s / tau )

    Source: Shu et al. 2021, Channel-wise knowledge distillation for dense prediction, equation 3;
    TorchDistiller@c2caaca0 SemSeg-distill/utils/criterion.py computes the same number.

    Args:
        s: student map [B,C,H,W].
        t: teacher map [B,C,H',W']; the larger is average-pooled to the smaller; no gradient
            reaches it.
        temperature: tau, above 0.

    Raises:
        Incompatible: no maps of the same images, or different channels.
        UsageError: a temperature not above 0.
    """
    tau = positive(temperature, "temperature", "cwd")
    s, t = same_size(*map_pair(s, t, "cwd"))
    _equal_channels(s, t, "cwd")
    p, q = ((x.flatten(2) / tau).log_softmax(2) for x in (s, t))
    divergences = functional.kl_div(p, q, reduction="none", log_target=True).sum(2)
    return tau**2 * divergences.mean()


def class_activation(x: Tensor, weight: Tensor) -> Tensor:
    """Class activation maps: what each position of a map says of each class.

        a_k(position) = sum_c weight_kc x_c(position)

    Their average over positions is the logits, but for the bias. Source: Zhou et al. 2016, Learning
    deep features for discriminative localization, equation 2.

    Args:
        x: map [B,C,H,W]. weight: [K,C], of the layer that reads its average.

    Returns:
        [B,K,H,W], with the gradient of both.

    Raises:
        Incompatible: shapes that do not fit.
    """
    if x.ndim != 4 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise Incompatible(
            "losses.class_activation needs a map [B, C, H, W] and weights [K, C], got "
            f"{list(x.shape)} and {list(weight.shape)}"
        )
    x, weight = precise(x), precise(weight)
    with full_precision(x):
        return torch.einsum("bchw,kc->bkhw", x, weight)


def cat_kd(s: Tensor, t: Tensor, *, resolution: int = 2, normalise: bool = False) -> Tensor:
    """Class attention transfer: the squared difference of class activation maps, pooled.

        mean over B, K, positions of ( pool(s) - pool(t) )^2

    where pool averages to resolution x resolution, and normalise divides each pooled map by its
    norm over positions. Source: Guo et al. 2023, Class attention transfer based knowledge
    distillation, section 3.3; CAT-KD@2657a680 mdistiller/distillers/CAT_KD.py computes the same
    number.

    Args:
        s: student's class activation maps [B,K,H,W].
        t: teacher's [B,K,H',W']; no gradient reaches them.
        resolution: side of the pooled maps, at least 1.

    Raises:
        Incompatible: no maps of the same images, or different classes.
        UsageError: a resolution not above 0.
    """
    side = int(positive(resolution, "resolution", "cat_kd"))
    s, t = map_pair(s, t, "cat_kd")
    _equal_channels(s, t, "cat_kd")
    s, t = (functional.adaptive_avg_pool2d(x, side).flatten(2) for x in (s, t))
    return (unit(s) - unit(t) if normalise else s - t).square().mean()


def mgd(s: Tensor, t: Tensor) -> Tensor:
    """Masked generative distillation: how far what was generated is from the teacher's map.

        mean over B of sum over C, H, W of (s - t)^2

    Source: Yang et al. 2022, Masked generative distillation, equation 4; MGD@046aba2d
    cls/mmcls/distillation/losses/mgd.py computes the same number. A sum over a map, whose weight is
    therefore small.

    Args:
        s: generated from the student's masked map [B,C,H,W].
        t: teacher map [B,C,H',W']; the larger is average-pooled to the smaller; no gradient
            reaches it.

    Raises:
        Incompatible: no maps of the same images, or different channels.
    """
    s, t = same_size(*map_pair(s, t, "mgd"))
    _equal_channels(s, t, "mgd")
    return (s - t).square().sum((1, 2, 3)).mean()
