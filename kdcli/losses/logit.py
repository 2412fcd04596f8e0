"""Losses on logits: supervised, Hinton's distillation, its two normalised forms, its two halves,
and correlations.

Throughout p = softmax(z / tau), q = softmax(v / tau), and KL(q || p) = sum_k q_k (log q_k - log
p_k), with both logarithms from log_softmax, so that nothing underflows at any temperature.
"""

from __future__ import annotations

from functools import partial
from math import log
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.core.class_weights import weights_of
from kdcli.core.mixed_labels import of_both
from kdcli.core.types import UNLABELLED
from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import labelled, pair, positive, relative_entropy, rows, unit

Divergence = Literal["forward", "reverse", "symmetric", "js"]
SphericalAlign = Literal["teacher_std", "constant", "unit"]

# a row whose spread is below this share of its largest entry is rounding noise: it has no direction
# to scale
_FLAT = 1e-6

# what DIST's released code adds to the product of two norms
_DIST_EPS = 1e-8


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Mean over the rows of -log softmax(z)_y, in nats, times the weight of the class y where a
    recipe weighs classes; of both labels by their shares where pictures are mixed. z [N,K], y [N]
    int64; a row without a label, y = -1, counts as 0.

    The mean is over all N rows, so that a labelled picture weighs the same whichever others are in
    its minibatch, and minibatches shared by ranks or added up mean what one would.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
    """
    if (both := of_both(lambda y: cross_entropy(z, y), y)) is not None:
        return both
    z, weight = labelled(z, y, "cross_entropy"), weights_of(y)
    if weight is None:
        return functional.cross_entropy(z, y, ignore_index=UNLABELLED, reduction="sum") / len(y)
    each = functional.cross_entropy(z, y, ignore_index=UNLABELLED, reduction="none")
    return (weight * each).mean()


def label_smoothing(
    z: Tensor, y: Tensor, *, smoothing: float, form: Literal["uniform", "others"] = "uniform"
) -> Tensor:
    """Cross-entropy against smoothed labels, mean over the rows.

        uniform:  target = (1 - a) onehot(y) + a / K          (Szegedy et al. 2016, section 7;
        PyTorch)
        others:   label 1 - a, every other class a / (K - 1)   (Yuan et al. 2020, Tf-KD's code)

    "others" with a is "uniform" with a K / (K - 1). Where a recipe weighs classes, a row counts by
    the weight of its label; where pictures are mixed, both labels count by their shares; a row
    without a label, y = -1, counts as 0, as in `cross_entropy`.

    Args:
        z: student logits [N,K].
        y: labels [N] int64.
        smoothing: a in [0, 1].
        form: who gets what is taken from the label.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: smoothing outside [0, 1], or an unknown form.
    """
    if not 0 <= smoothing <= 1:
        raise UsageError(
            f"losses.label_smoothing: smoothing must be between 0 and 1, got {smoothing}"
        )
    if form not in {"uniform", "others"}:
        raise UsageError(
            f'losses.label_smoothing: form must be "uniform" or "others", got {form!r}'
        )
    one = partial(label_smoothing, z, smoothing=smoothing, form=form)
    if (both := of_both(one, y)) is not None:
        return both
    log_p = labelled(z, y, "label_smoothing").log_softmax(-1)
    log_p = log_p * (y != UNLABELLED).unsqueeze(-1)
    y = y.clamp_min(0)
    classes = z.shape[-1]
    share = smoothing * classes / (classes - 1) if form == "others" else smoothing
    hard, weight = -log_p.gather(-1, y.unsqueeze(-1)), weights_of(y)
    if weight is None:
        return (1 - share) * hard.mean() - share * log_p.mean()
    return (weight * ((1 - share) * hard.squeeze(-1) - share * log_p.mean(-1))).mean()


def kd(z: Tensor, v: Tensor, *, temperature: float, divergence: Divergence = "forward") -> Tensor:
    """Hinton's distillation loss.

        tau^2 * mean_i D(q_i, p_i)

        forward:    D = KL(q || p)
        reverse:    D = KL(p || q)
        symmetric:  D = ( KL(q || p) + KL(p || q) ) / 2
        js:         D = ( KL(q || m) + KL(p || m) ) / 2,  m = (p + q) / 2

    Source: Hinton, Vinyals, Dean 2015, section 2; RepDistiller@5237c1fd distiller_zoo/KD.py and
    mdistiller@e8c5bb33 compute the same number. Its gradient tau (p - q) / N tends to (z - v) / (K
    N) for centred logits as tau grows, so that a weight keeps its meaning when the temperature
    changes. Differs from the paper's equation by the constant entropy of q: the minimum is 0. In
    float32 the value itself loses digits above a temperature of about 1000; the gradient does not.

    The others: distillm@17c0f98b distillm/losses.py, at temperature 1 and with lam 1/2; js is that
    of Agarwal et al. 2024, On-policy distillation of language models, arXiv:2306.13649, with beta
    1/2. Near the minimum forward, reverse and symmetric are one function, and js is a quarter of
    it; js is at most tau^2 log 2.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        temperature: tau > 0.
        divergence: which D.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: temperature is not above 0, or an unknown divergence.
    """
    z, v = pair(z, v, "kd")
    tau = positive(temperature, "temperature", "kd")
    if divergence == "forward":
        return _kd(z, v, tau)
    log_p, log_q = (z / tau).log_softmax(-1), (v / tau).log_softmax(-1)
    if divergence == "reverse":
        return tau**2 * _kl(log_p, log_q)
    if divergence == "symmetric":
        return tau**2 * (_kl(log_q, log_p) + _kl(log_p, log_q)) / 2
    if divergence == "js":
        log_m = torch.logaddexp(log_p, log_q) - log(2)
        return tau**2 * (_kl(log_q, log_m) + _kl(log_p, log_m)) / 2
    raise UsageError(
        f'losses.kd: divergence must be "forward", "reverse", "symmetric" or "js", got '
        f"{divergence!r}"
    )


def _kd(z: Tensor, v: Tensor, tau: float) -> Tensor:
    log_p, log_q = (z / tau).log_softmax(-1), (v / tau).log_softmax(-1)
    return tau**2 * functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def _kl(log_of: Tensor, log_from: Tensor) -> Tensor:
    """mean_i KL(of_i || from_i) of log-probabilities [N,K], with gradient to both."""
    return relative_entropy(log_of, log_from).mean()


def _spread(x: Tensor, correction: int) -> tuple[Tensor, Tensor]:
    """Centred rows [...,K] and their standard deviation [...,1]; 1 for rows that have none.

    Dividing by a small number instead, as reference codes do, makes the gradient of such a row
    explode (1e7 for an eps of 1e-7); zeroing it would leave a head that starts at zero there for
    ever.
    """
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (x.shape[-1] - correction)
    flat = variance.sqrt() <= _FLAT * x.abs().amax(-1, keepdim=True)
    return centred, variance.masked_fill(flat, 1.0).sqrt()


def standardize(x: Tensor, *, correction: int = 1) -> Tensor:
    """z-score over the classes: (x - mean_k x) / std_k x.

    Source: Sun et al. 2024, Logit standardization in knowledge distillation, equation 9 and
    algorithm 1; logit-standardization-KD@6083e2de mdistiller/distillers/KD.py. Differs: that code
    adds 1e-7 to the standard deviation; here a row without spread is only centred. With two classes
    only the sign is left.

    Args:
        x: logits [...,K].
        correction: 1 divides the variance by K - 1, as the reference code does; 0 by K.

    Returns:
        [...,K], mean 0 and standard deviation 1 over the classes.

    Raises:
        Incompatible: fewer than two classes.
    """
    centred, spread = _spread(rows(x, "standardize"), correction)
    return centred / spread


def match_spread(z: Tensor, *, like: Tensor) -> Tensor:
    """Student logits, centred, with the standard deviation over classes that the teacher's have,
    row by row.

        z-hat = (z - mean_k z) * std_k(like) / std_k(z)

    That is the student projected on the sphere on which the centred teacher logits lie. The
    student's own norm gets no gradient: dL/dz of any loss of z-hat is orthogonal to z - mean z.
    Differs from Spherical-Knowledge-Distillation@master, which does not centre, by a constant a
    row, which no softmax sees.

    Args:
        z: student logits [N,K].
        like: teacher logits [N,K]; no gradient reaches them.

    Returns:
        [N,K]

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
    """
    z, v = pair(z, like, "match_spread")
    centred, spread = _spread(z, 1)
    return centred * (v.std(-1, keepdim=True) / spread)


def spherical(
    z: Tensor, v: Tensor, *, align: SphericalAlign = "teacher_std", multiplier: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Both logits put on one sphere: what `skd` compares, (z-hat, v-hat), each [N,K].

        teacher_std:  z-hat = match_spread(z, like=v), v-hat = v       the released code
        constant:     z-hat = m standardize(z), v-hat = m standardize(v), biased variance       the
        released README
        unit:         z-hat = z / |z|, v-hat = v / |v|       as the paper prints it

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        align: which sphere.
        multiplier: m of "constant", the typical standard deviation of the teacher's logits, 2 to 3.

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: an unknown align, or a multiplier that is not above 0.
    """
    z, v = pair(z, v, "spherical")
    if align == "teacher_std":
        return match_spread(z, like=v), v
    if align == "constant":
        m = positive(multiplier, "multiplier", "spherical")
        return m * standardize(z, correction=0), m * standardize(v, correction=0)
    if align == "unit":
        return unit(z), unit(v)
    raise UsageError(
        f'losses.spherical: align must be "teacher_std", "constant" or "unit", got {align!r}'
    )


def skd(
    z: Tensor,
    v: Tensor,
    *,
    temperature: float,
    align: SphericalAlign = "teacher_std",
    multiplier: float = 2.0,
) -> Tensor:
    """Spherical knowledge distillation: `kd` between logits that were put on one sphere.

        tau^2 * mean_i KL( softmax(v-hat_i / tau) || softmax(z-hat_i / tau) ),  (z-hat, v-hat) =
        spherical(z, v)

    Source: Guo et al. 2020, Spherical knowledge distillation; equations 15 and 16 of An energy
    perspective in knowledge distillation; Spherical-Knowledge-Distillation@master skd_main.py.
    Differs from the papers, which divide both logits by their norms: at norm 1 and temperature 4 no
    probability of 100 classes can pass 0.0128, so that the loss hardly tells students apart. The
    released code scales the student to the teacher's spread, and that is the default here.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        temperature: tau > 0.
        align: which sphere, see `spherical`.
        multiplier: m of align "constant".

    Raises:
        Incompatible: shapes that differ or are not [N,K], or fewer than two classes.
        UsageError: temperature or multiplier not above 0, or an unknown align.
    """
    z_hat, v_hat = spherical(z, v, align=align, multiplier=multiplier)
    return _kd(z_hat, v_hat, positive(temperature, "temperature", "skd"))


def decoupled(z: Tensor, v: Tensor, y: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """The two halves of `kd`: about the label against the rest, and about how the rest is shared
    out, (TCKD, NCKD).

        TCKD = tau^2 mean_i KL( (q_t, 1 - q_t) || (p_t, 1 - p_t) )
        NCKD = tau^2 mean_i KL( q-hat_i || p-hat_i ),   q-hat, p-hat: softmax over the K - 1 classes
        other than the label t

    Row by row KD = TCKD + (1 - q_t) NCKD. With two classes NCKD is 0.

    Source: Zhao et al. 2022, Decoupled knowledge distillation, equations 6 and 7;
    mdistiller@e8c5bb33 mdistiller/distillers/DKD.py.
    Differs: that code subtracts 1000 from the label's logit, here its column is left out; it takes
    the logarithm of sums of probabilities, which a confident network makes -inf in float32, here
    log p_t and log(1 - p_t) are the logarithms of the sigmoids of +a and -a, a = z_t / tau -
    logsumexp_{k != t} z_k / tau.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        y: labels [N] int64.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    return _decoupled(z, v, y, temperature, "decoupled")


def _decoupled(
    z: Tensor, v: Tensor, y: Tensor, temperature: float, function: str
) -> tuple[Tensor, Tensor]:
    z, v = pair(labelled(z, y, function), v, function)
    tau = positive(temperature, "temperature", function)
    log_p, log_p_hat = _halves(z / tau, y)
    log_q, log_q_hat = _halves(v / tau, y)
    target = functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    rest = functional.kl_div(log_p_hat, log_q_hat, reduction="batchmean", log_target=True)
    return tau**2 * target, tau**2 * rest


def _halves(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of label and not label [N,2], and of the other classes among themselves
    [N,K-1].
    """
    label, column = y.unsqueeze(-1), torch.arange(x.shape[-1] - 1, device=x.device)
    others = x.gather(-1, column + (column >= label))
    margin = x.gather(-1, label) - others.logsumexp(-1, keepdim=True)
    return functional.logsigmoid(torch.cat([margin, -margin], -1)), others.log_softmax(-1)


def dkd(
    z: Tensor, v: Tensor, y: Tensor, *, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Decoupled knowledge distillation.

        alpha TCKD + beta NCKD,  (TCKD, NCKD) = decoupled(z, v, y)

    Source and differences: see `decoupled`.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        y: labels [N] int64.
        alpha: weight of the label against the rest.
        beta: weight of how the rest is shared out.
        temperature: tau > 0.

    Raises:
        Incompatible: shapes that do not fit, or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    target, rest = _decoupled(z, v, y, temperature, "dkd")
    return alpha * target + beta * rest


def correlations(z: Tensor, v: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """How badly the student's probabilities correlate with the teacher's: row by row, and column by
    column, (inter, intra).

        inter = tau^2 (1 - mean_i r(p_i., q_i.)),   intra = tau^2 (1 - mean_k r(p_.k, q_.k))
        r(a, b) = <a - mean a, b - mean b> / (|a - mean a| |b - mean b| + 1e-8)

    inter is about the classes of an image, intra about the images of a class. Each lies between 0
    and 2 tau^2.

    Source: Huang et al. 2022, Knowledge distillation from a stronger teacher, section 4;
    DIST_KD@6d93ca01, 1e-8 in its segmentation/losses/dist_kd.py, tau^2 in its classification code.
    Differs: a row or column without spread is centred and not scaled, because dividing it by 1e-8
    makes its gradient explode. With two classes r of a row is only a sign.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        temperature: tau > 0.

    Raises:
        Incompatible: a batch of one, for which no column varies; shapes that differ or are not
            [N,K], or fewer than two classes.
        UsageError: temperature is not above 0.
    """
    return _correlations(z, v, temperature, "correlations")


def _correlations(z: Tensor, v: Tensor, temperature: float, function: str) -> tuple[Tensor, Tensor]:
    z, v = pair(z, v, function)
    if z.shape[0] < 2:
        raise Incompatible(
            f"losses.{function} compares the images of a batch and needs at least two, got one"
        )
    tau = positive(temperature, "temperature", function)
    p, q = (z / tau).softmax(-1), (v / tau).softmax(-1)
    return tau**2 * (1 - _pearson(p, q).mean()), tau**2 * (1 - _pearson(p.T, q.T).mean())


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of the rows of a and b [n,m], as [n]."""
    (a, a_spread), (b, b_spread) = _spread(a, 1), _spread(b, 1)
    norms = (a.shape[-1] - 1) * (a_spread * b_spread).squeeze(-1)
    return (a * b).sum(-1) / (norms + _DIST_EPS)


def dist(z: Tensor, v: Tensor, *, beta: float, gamma: float, temperature: float) -> Tensor:
    """Distillation from a stronger teacher: match the relations in its probabilities, not the
    probabilities.

        beta inter + gamma intra,  (inter, intra) = correlations(z, v)

    Source and differences: see `correlations`. Differs from the paper's equations by the factor
    tau^2, which the released code has.

    Args:
        z: student logits [N,K].
        v: teacher logits [N,K]; no gradient reaches them.
        beta: weight of the classes of an image.
        gamma: weight of the images of a class.
        temperature: tau > 0.

    Raises:
        Incompatible: a batch of one; shapes that differ or are not [N,K], or fewer than two
            classes.
        UsageError: temperature is not above 0.
    """
    inter, intra = _correlations(z, v, temperature, "dist")
    return beta * inter + gamma * intra
