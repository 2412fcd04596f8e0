"""Entropy and free energy of logits, sample by sample, and second-order forms of their gaps.

Letters as in "An energy perspective in knowledge distillation": z student logits, v teacher logits,
p and q their probabilities at temperature tau, S entropy in nats, F = tau logsumexp(x / tau), S and
F linked by F = <x>_p + tau S. F moves with a constant added to all logits of a sample, which
changes no probability; so logits are centred first, always. The derivation, and why Theorem 1 of
the paper is off by a factor of 2, is in docs/explanation/energy.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdcli import losses
from kdcli.analysis.checks import rows_at_a_time


class Energies(NamedTuple):
    """Energies of one network for n samples at J temperatures, float64, of centred logits."""

    entropy: Tensor  # S [n,J], nats
    free_energy: Tensor  # F [n,J], in the unit of logits
    square_norm: Tensor  # |x|^2 [n]


def _blocks(*logits: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows [m,K] of each [n,K] at a time, centred, in float64."""
    rows = rows_at_a_time(logits[0])
    for parts in zip(*(each.split(rows) for each in logits), strict=True):  # type: ignore[no-untyped-call]
        yield tuple(losses.centre(part.double()) for part in parts)


def energies(logits: Tensor, temperatures: Sequence[float]) -> Energies:
    """Entropy and free energy of every sample at every temperature, in one pass over [n,K]."""
    parts = []
    for (x,) in _blocks(logits):
        entropy = torch.stack([losses.entropy(x, temperature=tau) for tau in temperatures], dim=1)
        free_energy = torch.stack(
            [losses.free_energy(x, temperature=tau) for tau in temperatures], dim=1
        )
        parts.append(Energies(entropy, free_energy, x.square().sum(dim=1)))
    return Energies(*(torch.cat(column) for column in zip(*parts, strict=True)))


def divergence(z: Tensor, v: Tensor, temperatures: Sequence[float]) -> tuple[float, ...]:
    """Mean KL(q || p) over samples at each temperature, nats; z, v [n,K]."""
    totals = [0.0] * len(temperatures)
    for student, teacher in _blocks(z, v):
        for position, tau in enumerate(temperatures):
            # the loss is a block's mean times tau^2
            totals[position] += (
                losses.kd(student, teacher, temperature=tau).item() / tau**2 * len(student)
            )
    return tuple(total / len(z) for total in totals)


class SecondOrder(NamedTuple):
    """Gaps to second order in 1/tau."""

    entropy: float  # nats
    free_energy: float  # in the unit of logits
    negligible: bool  # norms are equal to float32 rounding: a ratio to these gaps would be noise


def second_order(
    student: Energies, teacher: Energies, *, classes: int, temperature: float
) -> SecondOrder:
    """The gaps to second order in 1/tau, from D = mean |v|^2 - mean |z|^2.

        G_entropy ~ D / (2 K tau^2),   G_f ~ D / (2 K tau)

    Good where every |logit| is small beside tau; elsewhere third and higher cumulants of the logits
    dominate.
    """
    z, v = student.square_norm.mean().item(), teacher.square_norm.mean().item()
    scale = 2.0 * classes * temperature
    return SecondOrder(
        (v - z) / (scale * temperature), (v - z) / scale, negligible=abs(v - z) <= 1e-6 * (v + z)
    )


def in_range(teacher: Energies, *, classes: int, temperature: float) -> bool:
    """True where the second-order approximation has a chance: mean |v|^2 < 0.1 * 2 tau^2 K.

    The paper's condition. Necessary, not sufficient: one logit far above K - 1 others keeps the
    norm small and the third cumulant large.
    """
    return teacher.square_norm.mean().item() < 0.1 * 2.0 * temperature**2 * classes
