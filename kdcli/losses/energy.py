"""The two energies by which the distance between a student and its teacher is measured.

Source: An energy perspective in knowledge distillation, section 2.3. They are linked exactly by
F(x) = <x>_p + tau * S(x), with <x>_p the mean of the logits under softmax(x / tau).
"""

from __future__ import annotations

from torch import Tensor

from kdcli.losses._inputs import positive, rows


def centre(x: Tensor) -> Tensor:
    """Logits [...,K] minus their mean over the classes. No softmax sees the difference; a free
    energy does.
    """
    x = rows(x, "centre")
    return x - x.mean(-1, keepdim=True)


def entropy(x: Tensor, *, temperature: float) -> Tensor:
    """Entropy of softmax(x / tau), a value a row, in nats: 0 where one class has all, log K where
    all have the same.

        S = - sum_k p_k log p_k,  p = softmax(x / tau)
        (equation 4 of the paper)

    Args:
        x: logits [...,K].
        temperature: tau > 0.

    Returns:
        [...]

    Raises:
        Incompatible: fewer than two classes.
        UsageError: temperature is not above 0.
    """
    log_p = (rows(x, "entropy") / positive(temperature, "temperature", "entropy")).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def free_energy(x: Tensor, *, temperature: float) -> Tensor:
    """Helmholtz free energy of logits, a value a row, with the sign of the paper: larger for more
    confident logits.

        F = tau * log sum_k exp(x_k / tau)
        (equation 5 of the paper)

    F(x + c) = F(x) + c, although x and x + c are the same classifier: `centre` both sides before
    two networks are compared.

    Args:
        x: logits [...,K].
        temperature: tau > 0.

    Returns:
        [...], in units of the logits.

    Raises:
        Incompatible: fewer than two classes.
        UsageError: temperature is not above 0.
    """
    tau = positive(temperature, "temperature", "free_energy")
    return tau * (rows(x, "free_energy") / tau).logsumexp(-1)
