"""Losses between networks that are trained together, or one after another: what they need beside
`kd`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcli.core.class_weights import weights_of
from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import labelled, pair, positive, precise, relative_entropy, rows
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


def confidence_weights(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    """How much each of several teachers counts for each image, by how well it knows the label.

        w_m = ( 1 - softmax over m of CE(v_m, y) ) / (M - 1)

    They sum to 1 over the teachers. Source: Zhang, Chen, Wang 2022, Confidence-aware multi-teacher
    knowledge distillation, equations 2 and 5; CA-MKD@acc8c2b1 distiller_zoo/CAMKD.py,
    helper/loops.py.

    Args:
        logits: M times [N,K], M at least 2; their gradient is kept.
        y: labels [N] int64.

    Returns:
        [M,N]

    Raises:
        Incompatible: shapes that do not fit, or fewer than two teachers or classes.
    """
    if len(logits) < 2:
        raise Incompatible(
            f"losses.confidence_weights compares two teachers or more, got {len(logits)}"
        )
    each = [labelled(v, y, "confidence_weights").log_softmax(-1) for v in logits]
    hard = torch.stack([-log_q.gather(-1, y.unsqueeze(-1)).squeeze(-1) for log_q in each])
    return (1 - hard.softmax(0)) / (len(logits) - 1)


def ca_mkd(z: Tensor, logits: Sequence[Tensor], y: Tensor, *, temperature: float) -> Tensor:
    """Distillation from several teachers, each weighted image by image by its confidence.

        tau^2 mean_i sum_m w_im KL( softmax(v_im / tau) || softmax(z_i / tau) )

    with w of `confidence_weights`. Source: as there, equation 3; the released code divides it by
    the number of teachers besides.

    Args:
        z: student logits [N,K].
        logits: M times teacher logits [N,K], M at least 2; no gradient reaches them.
        y: labels [N] int64.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two teachers or classes.
        UsageError: temperature is not above 0.
    """
    tau = positive(temperature, "temperature", "ca_mkd")
    both = [pair(z, v, "ca_mkd") for v in logits]
    weights = confidence_weights([v for _, v in both], y)
    divergences = torch.stack(
        [
            relative_entropy((v / tau).log_softmax(-1), (ours / tau).log_softmax(-1))
            for ours, v in both
        ]
    )
    return tau**2 * (weights * divergences).sum(0).mean()


def naive_target(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    """Of several networks' logits, for each image those that know its label best: [N,K].

    Source: Guo et al. 2020, Online knowledge distillation via collaborative learning, KDCL-Naive.

    Args:
        logits: M times [N,K]; no gradient reaches them. y: labels [N] int64.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
    """
    each = torch.stack([labelled(z.detach(), y, "naive_target") for z in logits])
    known = each.log_softmax(-1).gather(-1, y.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)
    best = known.argmax(0)[None, :, None].expand(1, *each.shape[1:])
    return each.gather(0, best).squeeze(0)


def min_logit_target(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    """Of several networks' logits, less the label's own, the least for each image and class: [N,K].

        min_m ( z_mk - z_my )

    Its softmax gives the label at least what any of the networks gives it. Source: Guo et al. 2020,
    KDCL-MinLogit.

    Args:
        logits: M times [N,K]; no gradient reaches them. y: labels [N] int64.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
    """
    each = torch.stack([labelled(z.detach(), y, "min_logit_target") for z in logits])
    label = each.gather(-1, y.expand(len(logits), -1).unsqueeze(-1))
    return (each - label).amin(0)
