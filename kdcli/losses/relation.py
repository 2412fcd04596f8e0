"""Losses on how the samples of a batch relate to each other.

Student's and teacher's features may have different widths: what is compared are matrices over the N
samples of a batch. So the value for a batch is not the mean over its parts, and a batch of one,
which has no relations, is refused.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import full_precision, positive, precise, unit
from kdcli.losses._maps import vector_pair

CorrelationForm = Literal["code", "paper"]

_LEAST_SQUARE = 1e-12  # of a distance: what RKD's authors clamp it at
_PKT_EPS = 1e-7


# ---- similarity preservation ---------------------------------------------------------------------


def sp(s: Tensor, t: Tensor) -> Tensor:
    """Similarity-preserving loss: which samples of the batch look alike.

        |G_s - G_t|_F^2 / N^2,  G(f) = F F^T with every row divided by its norm, F = flatten(f)
        [N,D]

    Source: Tung, Mori 2019, Similarity-preserving knowledge distillation, section 3;
    RepDistiller@5237c1fd distiller_zoo/SP.py computes the same number. A sample whose features are
    all zero has a row of zeros.

    Args:
        s: student features or maps [N,...].
        t: teacher features or maps [N,...], of any shape; no gradient reaches them.

    Raises:
        Incompatible: different numbers of samples, or fewer than two.
    """
    s, t = vector_pair(s, t, "sp", least=2)
    return (_similarities(s) - _similarities(t)).square().mean()


def _similarities(x: Tensor) -> Tensor:
    with full_precision(x):
        return unit(x @ x.T)


# ---- correlation congruence ----------------------------------------------------------------------


def cc(
    e_s: Tensor, e_t: Tensor, *, form: CorrelationForm = "code", gamma: float = 0.4, order: int = 2
) -> Tensor:
    """Correlation congruence between embeddings. Both embeddings get a gradient, for both are
    trained.

        code:   mean over i < N of sum_d delta_id delta_(i+1)d,  delta = |e_s - e_t|
        paper:  mean over i, j of (k(s_i, s_j) - k(t_i, t_j))^2,  k(a,b) = exp(-2 gamma) sum_(p <=
        order) (2 gamma <a, b>)^p / p!

    where rows are divided by their norms in the paper's form: then k is the Taylor expansion of
    exp(-gamma |a - b|^2).

    Source: Peng et al. 2019, Correlation congruence for knowledge distillation, section 3 (paper's
    form); RepDistiller@5237c1fd distiller_zoo/CC.py, received from the paper's authors (code's
    form). The two have little in
    common: the code's form depends on the order of the samples and is smallest where both
    embeddings agree.

    Args:
        e_s: student embeddings [N,D].
        e_t: teacher embeddings [N,D]; in the paper's form their width may be another.
        form: "code" or "paper".
        gamma: width of the kernel, above 0, paper's form only.
        order: highest power of its expansion, at least 1, paper's form only.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two samples.
        UsageError: an unknown form, gamma not above 0, or an order below 1.
    """
    if form not in {"code", "paper"}:
        raise UsageError(f'losses.cc: form must be "code" or "paper", got {form!r}')
    if order < 1:
        raise UsageError(f"losses.cc: order must be at least 1, got {order}")
    gamma = positive(gamma, "gamma", "cc")
    s, _ = vector_pair(e_s, e_t, "cc", least=2)
    t = precise(e_t).flatten(1)  # with its gradient
    if form == "paper":
        return (_kernel(s, gamma, order) - _kernel(t, gamma, order)).square().mean()
    if s.shape != t.shape:
        raise Incompatible(
            f"losses.cc needs embeddings of one shape [N, D], got {list(s.shape)} and "
            f"{list(t.shape)}"
        )
    delta = (s - t).abs()
    return (delta[:-1] * delta[1:]).sum(1).mean()


def _kernel(x: Tensor, gamma: float, order: int) -> Tensor:
    direction = unit(x)
    with full_precision(x):
        cosine = direction @ direction.T
    powers = torch.stack(
        [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    )
    return math.exp(-2 * gamma) * powers.sum(0)


# ---- relational distillation ---------------------------------------------------------------------


def rkd(h_s: Tensor, h_t: Tensor, *, distance: float, angle: float) -> Tensor:
    """Relational knowledge distillation: weighted sum of `rkd_distance` and `rkd_angle`.

    Args:
        h_s: student features [N,D].
        h_t: teacher features [N,D'], of any width; no gradient reaches them.
        distance: weight of distances; 25 is published.
        angle: weight of angles; 50 is published. A term of weight 0 is not computed.

    Raises:
        Incompatible: different numbers of samples, or fewer than two.
        UsageError: a weight below 0, or both 0.
    """
    if min(distance, angle) < 0 or distance == angle == 0:
        raise UsageError(
            "losses.rkd: distance and angle must be at least 0 and not both 0, got "
            f"{distance} and {angle}"
        )
    terms = [
        weight * term(h_s, h_t)
        for weight, term in ((distance, rkd_distance), (angle, rkd_angle))
        if weight
    ]
    return torch.stack(terms).sum()


def rkd_distance(h_s: Tensor, h_t: Tensor) -> Tensor:
    """Smooth L1 between the distances of samples, mean over all N^2 pairs.

        d_ij = |h_i - h_j| / mean over i != j of |h_i - h_j|

    Source: Park et al. 2019, Relational knowledge distillation, section 3.2.1;
    RepDistiller@5237c1fd distiller_zoo/RKD.py computes the same number. Squared distances are at
    least 1e-12, so that equal samples have a finite gradient. Differs: differences instead of |a|^2
    + |b|^2 - 2 ab, which loses digits where samples are near; N^2 D numbers.

    Args:
        h_s: student features [N,D].
        h_t: teacher features [N,D'], of any width; no gradient reaches them.

    Raises:
        Incompatible: different numbers of samples, or fewer than two.
    """
    s, t = vector_pair(h_s, h_t, "rkd", least=2)
    return functional.smooth_l1_loss(_distances(s), _distances(t))


def _distances(x: Tensor) -> Tensor:
    off_diagonal = 1 - torch.eye(len(x), dtype=x.dtype, device=x.device)
    distance = _differences(x).square().sum(2).clamp_min(_LEAST_SQUARE).sqrt() * off_diagonal
    return distance * (off_diagonal.sum() / distance.sum())


def rkd_angle(h_s: Tensor, h_t: Tensor) -> Tensor:
    """Smooth L1 between the cosines of angles that samples form, mean over all N^3 triples.

        A_ijk = <e_ij, e_ik>,  e_ij = (h_j - h_i) / |h_j - h_i|

    Source: Park et al. 2019, Relational knowledge distillation, section 3.2.2;
    RepDistiller@5237c1fd distiller_zoo/RKD.py computes the same number, zeros of the diagonal
    included. Samples nearer than 1e-6 have no direction, and get no gradient from it. N^2 D and N^3
    numbers: 134 million and 17 million at N = 256, D = 2048.

    Args:
        h_s: student features [N,D].
        h_t: teacher features [N,D'], of any width; no gradient reaches them.

    Raises:
        Incompatible: different numbers of samples, or fewer than two.
    """
    s, t = vector_pair(h_s, h_t, "rkd", least=2)
    return functional.smooth_l1_loss(_angles(s), _angles(t))


def _angles(x: Tensor) -> Tensor:
    difference = _differences(x)
    square = difference.square().sum(2, keepdim=True)
    near = square < _LEAST_SQUARE
    direction = difference.masked_fill(near, 0.0) / square.masked_fill(near, 1.0).sqrt()
    with full_precision(x):
        return torch.bmm(direction, direction.transpose(1, 2))


def _differences(x: Tensor) -> Tensor:
    return x.unsqueeze(0) - x.unsqueeze(1)


# ---- probabilistic transfer ----------------------------------------------------------------------


def pkt(h_s: Tensor, h_t: Tensor) -> Tensor:
    """Probabilistic knowledge transfer: with what probability one sample picks another as its
    neighbour.

        mean over i, j of q_ij log( (q_ij + 1e-7) / (p_ij + 1e-7) )

    p (student) and q (teacher) are (cos(h_i, h_j) + 1) / 2 with every row divided by its sum.
    Source: Passalis, Tefas 2018, Learning deep representations with probabilistic knowledge
    transfer, section 3; RepDistiller@5237c1fd distiller_zoo/PKT.py computes the same number. It is
    a mean over N^2 and small: published weights are large, 30000. A sample whose features are all
    zero is as far from all others as a right angle.

    Args:
        h_s: student features [N,D].
        h_t: teacher features [N,D'], of any width; no gradient reaches them.

    Raises:
        Incompatible: different numbers of samples, or fewer than two.
    """
    s, t = vector_pair(h_s, h_t, "pkt", least=2)
    p, q = _neighbours(s), _neighbours(t)
    return (q * ((q + _PKT_EPS) / (p + _PKT_EPS)).log()).mean()


def _neighbours(x: Tensor) -> Tensor:
    square = x.square().sum(1, keepdim=True)
    # zero rows stay zero, as in `unit`
    direction = x / (square.masked_fill(square == 0, 1.0).sqrt() + _PKT_EPS)
    with full_precision(x):
        chance = (direction @ direction.T + 1) / 2
    return chance / chance.sum(1, keepdim=True)
