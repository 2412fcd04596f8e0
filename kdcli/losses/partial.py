"""Targets that hold a part of what a teacher knows, and the divergence from a given target.

A target is a distribution rho [N,K] of float32 or better, without gradient, to be put into
`divergence`. With t = y_i the label of a row, the first four take apart what distillation does:
`kd_pt` keeps how sure the teacher is of each image and nothing of how classes relate, `kd_sim` and
`kd_rel` keep how classes relate and nothing of the image, `kd_topk` drops what is noise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import labelled, positive, precise, rows


def divergence(z: Tensor, rho: Tensor, *, temperature: float) -> Tensor:
    """Distillation from a distribution that is given as probabilities.

        tau^2 * mean_i KL(rho_i || softmax(z_i / tau))

    Its gradient is that of the cross-entropy with soft targets, H(rho, p); the entropy of rho,
    which is subtracted, makes values under different targets comparable. With rho = softmax(v /
    tau) it is `kd`. The target itself is not tempered here.

    Args:
        z: student logits [N,K].
        rho: target probabilities [N,K], rows that sum to 1, zeros allowed; no gradient reaches
            them.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    if z.shape != rho.shape or z.ndim != 2 or z.shape[0] == 0:
        shapes = f"{list(z.shape)} and {list(rho.shape)}"
        raise Incompatible(
            "losses.divergence needs student logits and target probabilities of one shape "
            f"[N, K], got {shapes}"
        )
    tau = positive(temperature, "temperature", "divergence")
    log_p = (rows(z, "divergence") / tau).log_softmax(-1)
    return tau**2 * functional.kl_div(log_p, rho.detach().to(log_p.dtype), reduction="batchmean")


def kd_pt(v: Tensor, y: Tensor, *, temperature: float) -> Tensor:
    """The teacher's confidence in the label alone.

        rho_t = q_t,   rho_k = (1 - q_t) / (K - 1) for k != t,   q = softmax(v / tau)

    Source: Tang et al. 2020, Understanding and improving knowledge distillation, section 4, KD-pt:
    rescales gradients by the difficulty of the image, without class relations. With two classes it
    is q.

    Args:
        v: teacher logits [N,K].
        y: labels [N] int64.
        temperature: tau > 0.

    Returns:
        [N,K]

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    q = (labelled(v.detach(), y, "kd_pt") / positive(temperature, "temperature", "kd_pt")).softmax(
        -1
    )
    label = _is_label(y, q.shape[-1])
    # 1 - q_t would round to 0 for a teacher that is sure
    others = q.masked_fill(label, 0.0).sum(-1, keepdim=True)
    return torch.where(label, q, others / (q.shape[-1] - 1))


def _is_label(y: Tensor, classes: int) -> Tensor:
    return torch.arange(classes, device=y.device) == y.unsqueeze(-1)


def kd_sim(weight: Tensor, y: Tensor, *, temperature: float, power: float) -> Tensor:
    """The similarity of classes in the teacher's last layer.

        rho = softmax( sign(c) |c|^power / tau ),   c_k = cos(w_t, w_k)

    Source: Tang et al. 2020, section 4 and 7.2, KD-sim: class relations, without the image.
    Differs: the paper does not say what a power of a negative cosine is; the sign is kept here. A
    row w of zeros is alike to nothing.

    Args:
        weight: rows w [K,D] of the teacher's last linear layer; its bias is not used.
        y: labels [N] int64.
        temperature: tau > 0 of these similarities, apart from that of the loss.
        power: above 0; larger values make small similarities smaller.

    Returns:
        [N,K]

    Raises:
        Incompatible: a weight that is no matrix of at least two rows, or labels that are not one
            integer a row.
        UsageError: temperature or power is not above 0.
    """
    if weight.ndim != 2 or weight.shape[0] < 2 or y.ndim != 1 or y.is_floating_point():
        shapes = f"{list(weight.shape)} and {list(y.shape)} {str(y.dtype).removeprefix('torch.')}"
        raise Incompatible(
            "losses.kd_sim needs a weight [K, D] of at least two classes and integer labels "
            f"[N], got {shapes}"
        )
    tau, power = positive(temperature, "temperature", "kd_sim"), positive(power, "power", "kd_sim")
    directions = functional.normalize(precise(weight.detach()), dim=-1, eps=1e-12)
    cosines = directions[y] @ directions.T
    return (cosines.sign() * cosines.abs().pow(power) / tau).softmax(-1)


def kd_rel(y: Tensor, superclass: Tensor, *, label_probability: float, ratio: float) -> Tensor:
    """A known hierarchy of classes as a target: much for the label, some for its siblings, little
    for the rest.

        rho_k = b1 for k = t,   b2 for the n siblings of t,   b3 for the others,   b1 + n b2 + (K -
        1 - n) b3 = 1,   b2 = ratio b3

    Source: Tang et al. 2020, equation 5, KD-rel, which asks for b1 > b2 > b3. Differs: b1 and the
    ratio b2 / b3 are given, so that classes with many and with few siblings have one rule. b1 > b2
    depends on the sizes of the superclasses and is not checked here.

    Args:
        y: labels [N] int64.
        superclass: the superclass [K] int64 of each class.
        label_probability: b1, between 0 and 1.
        ratio: b2 / b3, above 1.

    Returns:
        [N,K] float32

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: a label_probability or ratio out of range.
    """
    if superclass.ndim != 1 or superclass.shape[0] < 2 or y.ndim != 1 or y.is_floating_point():
        shapes = (
            f"{list(superclass.shape)} and {list(y.shape)} {str(y.dtype).removeprefix('torch.')}"
        )
        raise Incompatible(
            "losses.kd_rel needs the superclass [K] of at least two classes and integer "
            f"labels [N], got {shapes}"
        )
    _share(label_probability, "kd_rel")
    if not positive(ratio, "ratio", "kd_rel") > 1:
        raise UsageError(
            "losses.kd_rel: ratio must be above 1, so that siblings get more than the rest, "
            f"got {ratio}"
        )
    classes = superclass.shape[0]
    label = _is_label(y, classes)
    sibling = (superclass[y].unsqueeze(-1) == superclass) & ~label
    count = sibling.sum(-1, keepdim=True)
    least = (1 - label_probability) / (count * ratio + (classes - 1 - count))
    return torch.where(sibling, ratio * least, least).masked_fill(label, label_probability)


def _share(probability: float, function: str) -> float:
    if not 0 < probability < 1:
        raise UsageError(
            f"losses.{function}: label_probability must be between 0 and 1, got {probability}"
        )
    return probability


def kd_topk(v: Tensor, *, k: int, temperature: float) -> Tensor:
    """The teacher's k largest probabilities; all other classes share the rest equally.

        rho_j = q_j for the k largest,   (1 - sum of those) / (K - k) for the others,   q =
        softmax(v / tau)

    Source: Tang et al. 2020, section 5.3, KD-topk. The label is kept only if it is among the k. Of
    equal logits the first are kept. k = K, and k = K - 1, give q; k = 0 gives the uniform
    distribution.

    Args:
        v: teacher logits [N,K].
        k: from 0 to K.
        temperature: tau > 0.

    Returns:
        [N,K]

    Raises:
        Incompatible: logits that are not [N,K], fewer than two classes, or a k above K.
        UsageError: k is below 0, or temperature is not above 0.
    """
    if v.ndim != 2:
        raise Incompatible(f"losses.kd_topk needs teacher logits [N, K], got {list(v.shape)}")
    v = rows(v.detach(), "kd_topk")
    classes = v.shape[-1]
    if k < 0:
        raise UsageError(f"losses.kd_topk: k must be 0 or more, got {k}")
    if k > classes:
        raise Incompatible(f"losses.kd_topk: k is {k}, and there are {classes} classes")
    q = (v / positive(temperature, "temperature", "kd_topk")).softmax(-1)
    dropped = v.argsort(dim=-1, descending=True, stable=True)[:, k:]
    share = q.gather(-1, dropped).sum(-1, keepdim=True) / max(classes - k, 1)
    return q.scatter(-1, dropped, share.expand_as(dropped))


def virtual_teacher(y: Tensor, classes: int, *, label_probability: float = 0.99) -> Tensor:
    """A teacher that is always right and knows nothing else.

        u_t = a,   u_k = (1 - a) / (K - 1) for k != t

    Source: Yuan et al. 2020, Revisiting knowledge distillation via label smoothing regularization,
    section 4.2.

    Args:
        y: labels [N] int64.
        classes: K, at least 2.
        label_probability: a, between 0 and 1.

    Returns:
        [N,K] float32

    Raises:
        Incompatible: labels that are not one integer a row, or fewer than two classes.
        UsageError: label_probability is out of range.
    """
    a = _share(label_probability, "virtual_teacher")
    if y.ndim != 1 or y.is_floating_point() or classes < 2:
        got = f"{classes} classes and {list(y.shape)} {str(y.dtype).removeprefix('torch.')}"
        raise Incompatible(
            f"losses.virtual_teacher needs at least two classes and integer labels [N], got {got}"
        )
    label = _is_label(y, classes)
    return torch.full(label.shape, (1 - a) / (classes - 1), device=y.device).masked_fill(label, a)


def tf_kd(
    z: Tensor,
    y: Tensor,
    *,
    temperature: float,
    label_probability: float = 0.99,
    form: Literal["paper", "code"] = "paper",
) -> Tensor:
    """Teacher-free regularisation: distillation from `virtual_teacher` u.

        paper:  tau^2 mean_i KL( u_i^tau || softmax(z_i / tau) ),   u^tau = u^(1/tau) / sum_k
        u_k^(1/tau)
        code:   mean over i and k of KL( softmax(u_i / tau) || softmax(z_i) ), that is 1 / K of the
        mean over i

    Source: Yuan et al. 2020, section 4.2; Teacher-free-Knowledge-Distillation@880a74ec
    my_loss_function.py. In that code the target is a softmax of probabilities, at temperature 20
    and 100 classes almost uniform (label 0.0105, others 0.00999), and the student is not tempered.
    Differs from the paper's equation by tau^2, which keeps gradients alike at all temperatures.

    Args:
        z: student logits [N,K].
        y: labels [N] int64.
        temperature: tau > 0; the paper takes 20 or more.
        label_probability: what the virtual teacher gives to the label.
        form: whose formula.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: temperature or label_probability is out of range, or an unknown form.
    """
    if form not in {"paper", "code"}:
        raise UsageError(f'losses.tf_kd: form must be "paper" or "code", got {form!r}')
    z, tau = labelled(z, y, "tf_kd"), positive(temperature, "temperature", "tf_kd")
    u = virtual_teacher(y, z.shape[-1], label_probability=label_probability).to(z.dtype)
    if form == "paper":
        return divergence(z, (u.log() / tau).softmax(-1), temperature=tau)
    return divergence(z, (u / tau).softmax(-1), temperature=1) / z.shape[-1]
