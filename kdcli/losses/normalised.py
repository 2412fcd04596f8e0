"""Losses that share out the probability of the label and that of the other classes apart, each
other class as a part of what is left: NKD and USKD.

p = softmax(z), q = softmax(v), t = y_i the label of a row; p-hat and q-hat are the softmaxes of the
other K - 1 classes at temperature tau.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdcli.losses._inputs import labelled, pair, positive
from kdcli.losses.logit import _halves


def nkd(z: Tensor, v: Tensor, y: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Normalised distillation: the label by the teacher's confidence in it, and the other classes
    among themselves, (target, others).

        target = -mean_i q_t log p_t
        others = tau^2 mean_i KL( q-hat_i || p-hat_i )

    Source: Yang et al. 2023, From knowledge distillation to self-knowledge distillation;
    cls_KD@1c2c0ff1 mmcls/distillation/losses/nkd.py. Differs from both by the entropy of q-hat:
    KL, of the same gradient, instead of the cross-entropy.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        y: labels [N] int64.
        temperature: tau > 0 of the others; the label's part is not tempered.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    z, v = pair(labelled(z, y, "nkd"), v, "nkd")
    tau = positive(temperature, "temperature", "nkd")
    log_p, q = _of_label(z, y), _of_label(v, y).exp()
    return -(q * log_p).mean(), tau**2 * _among_others(
        _halves(z / tau, y)[1], _halves(v / tau, y)[1].exp()
    )


def uskd(z: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Self-distillation with soft labels made to measure: of the label by the student's own
    confidence, of the other classes by their ranks, (target, others).

        target = -mean_i s_i log p_t,   s_i = p_t^2 + 1 - mean_j p_jt^2
        others = mean_i KL( r_i || p-hat_i ),   r_ik in proportion to 1 / rank_ik

    rank is the place of class k, from 1, when all K classes are sorted by p_k / (1 - p_t) + a_k /
    (1 - a_t), largest first, where a = softmax(w); the label has a place and no share. s and r get
    no gradient, and w none at all.

    Source: Yang et al. 2023, as `nkd`; cls_KD@1c2c0ff1 mmcls/distillation/losses/uskd.py, where
    the label is sorted along with the others. Differs from that code, which sorts by log p_k / (1 -
    log p_t) + a_k / (1 - a_t + 1e-6); and by KL, of the same gradient, instead of the
    cross-entropy.

    Args:
        z: student logits [N,K].
        w: logits [N,K] of a weak head on an earlier stage; no gradient reaches them.
        y: labels [N] int64.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
    """
    z, w = pair(labelled(z, y, "uskd"), w, "uskd")
    log_p = _of_label(z, y)
    square = log_p.detach().exp().square()
    target = -((square + 1 - square.mean()) * log_p).mean()

    margins, log_p_hat = _halves(z, y)
    margins_w, log_a_hat = _halves(w, y)
    # p_k / (1 - p_t) of the others is their own softmax; of the label it is its odds
    others = log_p_hat.detach().exp() + log_a_hat.exp()
    label = sum((log[:, :1] - log[:, 1:]).exp() for log in (margins.detach(), margins_w))
    place = others.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    share = 1 / (1 + place + (label >= others)).to(z.dtype)
    return target, _among_others(log_p_hat, share / share.sum(-1, keepdim=True))


def _of_label(x: Tensor, y: Tensor) -> Tensor:
    """The label's log softmax(x)_t, [N]."""
    return x.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _among_others(log_p_hat: Tensor, target: Tensor) -> Tensor:
    """mean_i KL(target_i || p-hat_i), targets [N,K-1] above 0 but where they underflow."""
    entropies: Tensor = torch.special.xlogy(target, target)
    return (entropies - target * log_p_hat).sum(-1).mean()
