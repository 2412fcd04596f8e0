"""Losses that change what plain distillation asks of the student: another temperature on one side,
a temperature that is learnt, images that weigh differently, or the teacher's label alone.

Throughout p = softmax(z), q = softmax(v), and a tempered one is the softmax of logits / tau.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.core.mixed_labels import of_both
from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import labelled, pair, positive, relative_entropy

# what WSLD's released code adds to the teacher's cross-entropy
_WSLD_EPS = 1e-7


def kd_learnt(z: Tensor, v: Tensor, tau: Tensor) -> Tensor:
    """`kd` at a temperature that is a tensor, one for all images or one for each, with gradient to
    it.

        mean_i tau_i^2 KL( softmax(v_i / tau_i) || softmax(z_i / tau_i) )

    Source: Li et al. 2023, Curriculum temperature for knowledge distillation; CTKD@b3667835
    distiller_zoo/KD.py, which has one temperature for all.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        tau: [] or [N], above 0: values are not looked at, which would make the host wait.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
    """
    z, v = pair(z, v, "kd_learnt")
    if tau.shape not in {(), z.shape[:1]}:
        raise Incompatible(
            "losses.kd_learnt needs one temperature, or one a row, [N]: got "
            f"{list(tau.shape)} for logits {list(z.shape)}"
        )
    tau = tau.to(z.dtype).unsqueeze(-1)
    return (tau.squeeze(-1).square() * _rows(z / tau, v / tau)).mean()


def _rows(z: Tensor, v: Tensor) -> Tensor:
    """KL( softmax(v_i) || softmax(z_i) ) of each row, [N]."""
    return relative_entropy(v.log_softmax(-1), z.log_softmax(-1))


def ttm(z: Tensor, v: Tensor, *, temperature: float) -> Tensor:
    """Transformed teacher matching: the temperature on the teacher's side alone.

        mean_i KL( softmax(v_i / tau) || softmax(z_i) )

    The tempered softmax is q^(1 / tau), normalised. Source: Zheng, Yang 2024, Knowledge
    distillation based on transformed teacher matching; TTM@2de9060d distiller_zoo/ttm.py, whose l
    is 1 / tau. Differs from that code: powers are taken of log-probabilities, so that none
    underflows.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    z, v = pair(z, v, "ttm")
    return _rows(z, v / positive(temperature, "temperature", "ttm")).mean()


def wttm(z: Tensor, v: Tensor, *, temperature: float) -> Tensor:
    """Weighted transformed teacher matching: `ttm` in which an image counts by how smooth the
    teacher's answer to it is.

        mean_i u_i KL( softmax(v_i / tau) || softmax(z_i) ),   u_i = sum_k q_ik^(1 / tau)

    u lies between 1 and K^(1 - 1 / tau) for tau > 1. Source: Zheng, Yang 2024, as `ttm`;
    TTM@2de9060d distiller_zoo/wttm.py. Differs as `ttm` does.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    z, v = pair(z, v, "wttm")
    tau = positive(temperature, "temperature", "wttm")
    smoothness = (v.log_softmax(-1) / tau).exp().sum(-1)
    return (smoothness * _rows(z, v / tau)).mean()


def hard(z: Tensor, v: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the teacher's most probable class.

        mean_i CE(z_i, argmax_k v_ik)

    Source: Touvron et al. 2021, Training data-efficient image transformers and distillation through
    attention, equation 3; deit@ae4dba9b losses.py.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        smoothing: what is taken from that class and shared among all, in [0, 1].

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: smoothing outside [0, 1].
    """
    if not 0 <= smoothing <= 1:
        raise UsageError(f"losses.hard: smoothing must be between 0 and 1, got {smoothing}")
    z, v = pair(z, v, "hard")
    return functional.cross_entropy(z, v.argmax(-1), label_smoothing=smoothing)


def wsld(z: Tensor, v: Tensor, y: Tensor, *, temperature: float) -> Tensor:
    """Weighted soft labels: `kd` in which an image counts less where the student knows its label
    better than the teacher does.

        tau^2 mean_i w_i KL( softmax(v_i / tau) || softmax(z_i / tau) ),
        w_i = 1 - exp( -CE(z_i, y_i) / (CE(v_i, y_i) + 1e-7) )

    w gets no gradient. Source: Zhou et al. 2021, Rethinking soft labels for knowledge distillation:
    a bias-variance tradeoff perspective; Weighted-Soft-Label-Distillation@4ecf930e
    knowledge_distiller.py. Differs from both by the entropy of the soft label: KL, of the same
    gradient, instead of the cross-entropy.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        y: labels [N] int64.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    z, v = pair(labelled(z, y, "wsld"), v, "wsld")
    tau = positive(temperature, "temperature", "wsld")
    ours, theirs = (-x.detach().log_softmax(-1).gather(-1, y[:, None])[:, 0] for x in (z, v))
    weight = -(-ours / (theirs + _WSLD_EPS)).expm1()
    return tau**2 * (weight * _rows(z / tau, v / tau)).mean()


def ofa(z: Tensor, v: Tensor, y: Tensor, *, eps: float, temperature: float) -> Tensor:
    """Cross-entropy with the teacher's probabilities, of which the label's is enhanced.

        -mean_i sum_k ( (q_ik + [k = y_i])^eps - [k = y_i] ) log p_ik,   p, q at tau

    Source: Hao et al. 2023, One-for-all: bridge the gap between heterogeneous architectures in
    knowledge distillation, equation 6; OFAKD@12eeba86 distillers/ofa.py computes the same number.
    Where labels are mixed, by both labels and their shares. It has no factor tau^2.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        y: labels [N] int64; not read where eps is 1.
        eps: at least 1, where it is the cross-entropy with q. temperature: tau > 0.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: eps below 1, or a temperature not above 0.
    """
    if not eps >= 1:
        raise UsageError(f"losses.ofa: eps must be at least 1, got {eps}")
    both = of_both(lambda labels: ofa(z, v, labels, eps=eps, temperature=temperature), y)
    if both is not None:
        return both
    z, v = pair(labelled(z, y, "ofa"), v, "ofa")
    tau = positive(temperature, "temperature", "ofa")
    target = (v / tau).softmax(-1)
    if eps != 1:  # else the label adds nothing, and there need not be one
        label = torch.zeros_like(target).scatter(1, y[:, None], 1.0)
        target = (target + label) ** eps - label
    return -(target * (z / tau).log_softmax(-1)).sum(-1).mean()
