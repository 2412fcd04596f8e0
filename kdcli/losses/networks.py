"""Losses between networks that are trained together, or one after another: what they need beside
`kd`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdcli.core.class_weights import weights_of
from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import labelled, pair, positive, precise, rows
from kdcli.losses.logit import _kd


def kd_both(z: Tensor, v: Tensor, *, temperature: float) -> Tensor:
    """`kd` with gradient to both sides: the same number, but the teacher is pulled toward the
    student too.

        tau^2 * mean_i KL(q_i || p_i)

    Source: SLKD@8c1b99ed mdistiller/distillers/TECH_KD.py, which does not detach its self-learning
    teachers; no paper asks for it.

    Args:
        z: student logits [N,K].
        v: logits [N,K] of a teacher that is being trained.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    z, _ = pair(z, v, "kd_both")
    return _kd(z, precise(v), positive(temperature, "temperature", "kd_both"))


def logit_mse(z: Tensor, v: Tensor, *, share: float = 1.0) -> Tensor:
    """Mean square difference to a share of the teacher's logits.

        mean over N, K of (z - phi v)^2

    Source: Jafari et al. 2021, Annealing knowledge distillation, and Rezagholizadeh et al. 2022,
    Pro-KD. Where phi < 1 the targets are those of a softer teacher: its logits at the temperature 1
    / phi.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        share: phi > 0.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: share is not above 0.
    """
    z, v = pair(z, v, "logit_mse")
    return (z - positive(share, "share", "logit_mse") * v).square().mean()


def confidence_weighted(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with the labels, in which an image counts as much as the teacher is sure of it.

        sum_i w_i CE(z_i, y_i) / sum_i w_i,   w_i = max_k softmax(v_i)_k

    Source: Furlanello et al. 2018, Born-again neural networks (CWTM): what of distillation is a
    weighting of images. Of the teacher it uses nothing but its confidence; under a teacher that is
    equally sure of all images it is the cross-entropy.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        y: labels [N] int64.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
    """
    z, v = pair(z, v, "confidence_weighted")
    each = (
        -labelled(z, y, "confidence_weighted")
        .log_softmax(-1)
        .gather(-1, y.unsqueeze(-1))
        .squeeze(-1)
    )
    weight = v.softmax(-1).amax(-1)
    of_class = weights_of(y)
    if of_class is not None:
        each = of_class * each
    return (weight * each).sum() / weight.sum()


def permute_others(v: Tensor, order: Tensor) -> Tensor:
    """Teacher logits whose largest stays in its place while the others change places, row by row.

    A softmax of them at any temperature is the softmax of v with the same permutation. Source:
    Furlanello et al. 2018, Born-again neural networks (DKPP): what of distillation is left when the
    classes' similarities are destroyed.

    Args:
        v: teacher logits [N,K]; no gradient reaches them.
        order: [N,K], numbers by which the others are sorted: random ones permute them at random.

    Returns:
        [N,K]

    Raises:
        Incompatible: not [N,K] of at least two classes. UsageError: an order of another shape.
    """
    if v.ndim != 2:
        raise Incompatible(
            f"losses.permute_others needs teacher logits [N, K], got shape {list(v.shape)}"
        )
    if order.shape != v.shape:
        raise UsageError(
            f"losses.permute_others needs a number for each logit, got {list(order.shape)} "
            f"for {list(v.shape)}"
        )
    v = rows(v.detach(), "permute_others")
    largest = torch.zeros_like(v).scatter(1, v.argmax(1, keepdim=True), 1.0).bool()
    places = torch.arange(v.shape[1], device=v.device).expand_as(v)
    # the largest sorts first in both lists, so it goes to where it was
    to = places.masked_fill(largest, -1).argsort(dim=1)
    taken = order.to(v.dtype).masked_fill(largest, -torch.inf).argsort(dim=1, stable=True)
    return torch.empty_like(v).scatter(1, to, v.gather(1, taken))
