"""Distillation losses as pure functions, usable without the rest of kd.

Student first, teacher second, and a scalar without the method's overall weight: `losses.skd(z, v, temperature=4)`. No state,
no randomness. Lower precisions are computed in float32, float64 stays; gradients reach the student's side alone.
Letters: z [N,K] student logits, v [N,K] teacher logits, p and q their softmax at a temperature, y [N] int64 labels.
"""

from kdcli.losses.energy import centre, entropy, free_energy
from kdcli.losses.logit import SphericalAlign, cross_entropy, kd, label_smoothing, match_spread, skd, spherical, standardize

__all__ = [
    "SphericalAlign",
    "centre",
    "cross_entropy",
    "entropy",
    "free_energy",
    "kd",
    "label_smoothing",
    "match_spread",
    "skd",
    "spherical",
    "standardize",
]
