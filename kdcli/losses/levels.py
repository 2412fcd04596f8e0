"""Losses between the probabilities of a whole minibatch: which images are answered alike, and which
classes are named together. With `kd` between the answers to single images they are the three levels
of multi-level logit distillation.
"""

from __future__ import annotations

from torch import Tensor

from kdcli.losses._inputs import full_precision, pair, positive


def batch_level(z: Tensor, v: Tensor, *, temperature: float) -> Tensor:
    """The images of a minibatch compared with each other by the probabilities they are given.

        1 / N |P P^T - Q Q^T|^2,   P = softmax(z / tau), Q = softmax(v / tau), both [N,K]

    Source: Jin et al. 2023, Multi-level logit distillation;
    Multi-Level-Logit-Distillation@6327e733 mdistiller/distillers/KD_ours.py, bc_loss. It grows with
    N, of whose pairs it is a sum.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    p, q = _probabilities(z, v, temperature, "batch_level")
    with full_precision(p):
        return (p @ p.T - q @ q.T).square().sum() / len(p)


def class_level(z: Tensor, v: Tensor, *, temperature: float) -> Tensor:
    """The classes compared with each other by the images of a minibatch that they are said of.

        1 / K |P^T P - Q^T Q|^2,   P = softmax(z / tau), Q = softmax(v / tau), both [N,K]

    Source: Jin et al. 2023, Multi-level logit distillation;
    Multi-Level-Logit-Distillation@6327e733 mdistiller/distillers/KD_ours.py, cc_loss. It grows with
    the square of N.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    p, q = _probabilities(z, v, temperature, "class_level")
    with full_precision(p):
        return (p.T @ p - q.T @ q).square().sum() / p.shape[1]


def _probabilities(
    z: Tensor, v: Tensor, temperature: float, function: str
) -> tuple[Tensor, Tensor]:
    z, v = pair(z, v, function)
    tau = positive(temperature, "temperature", function)
    return (z / tau).softmax(-1), (v / tau).softmax(-1)
