"""Distillation losses as pure functions, usable without the rest of kd.

Student first, teacher second, and a scalar without the method's overall weight: `losses.skd(z, v,
temperature=4)`. No state, no randomness. Lower precisions are computed in float32, float64 stays;
gradients reach the student's side alone. Letters: z [N,K] student logits, v [N,K] teacher logits, p
and q their softmax at a temperature, y [N] int64 labels.
"""

from kdcli.losses._maps import same_size
from kdcli.losses.attention import afd, semckd
from kdcli.losses.channel import cat_kd, class_activation, cwd, ickd, mgd, srd
from kdcli.losses.contrastive import crd
from kdcli.losses.energy import centre, entropy, free_energy
from kdcli.losses.feature import at, fitnet, map_correlations, nst, vid
from kdcli.losses.levels import batch_level, class_level
from kdcli.losses.logit import (
    Divergence,
    SphericalAlign,
    correlations,
    cross_entropy,
    decoupled,
    dist,
    dkd,
    kd,
    label_smoothing,
    match_spread,
    skd,
    spherical,
    standardize,
)
from kdcli.losses.networks import (
    ca_mkd,
    confidence_weighted,
    confidence_weights,
    kd_both,
    logit_mse,
    min_logit_target,
    naive_target,
    permute_others,
)
from kdcli.losses.normalised import nkd, uskd
from kdcli.losses.partial import divergence, kd_pt, kd_rel, kd_sim, kd_topk, tf_kd, virtual_teacher
from kdcli.losses.relation import CorrelationForm, cc, pkt, rkd, rkd_angle, rkd_distance, sp
from kdcli.losses.singular import kdsvd
from kdcli.losses.soft_targets import hard, kd_learnt, ofa, ttm, wsld, wttm
from kdcli.losses.transfer import (
    FactorForm,
    ab,
    fsp,
    ft,
    hcl,
    ofd,
    ofd_margins,
    srrl,
    srrl_features,
)

__all__ = [
    "CorrelationForm",
    "Divergence",
    "FactorForm",
    "SphericalAlign",
    "ab",
    "afd",
    "at",
    "batch_level",
    "ca_mkd",
    "cat_kd",
    "cc",
    "centre",
    "class_activation",
    "class_level",
    "confidence_weighted",
    "confidence_weights",
    "correlations",
    "crd",
    "cross_entropy",
    "cwd",
    "decoupled",
    "dist",
    "divergence",
    "dkd",
    "entropy",
    "fitnet",
    "free_energy",
    "fsp",
    "ft",
    "hard",
    "hcl",
    "ickd",
    "kd",
    "kd_both",
    "kd_learnt",
    "kd_pt",
    "kd_rel",
    "kd_sim",
    "kd_topk",
    "kdsvd",
    "label_smoothing",
    "logit_mse",
    "map_correlations",
    "match_spread",
    "mgd",
    "min_logit_target",
    "naive_target",
    "nkd",
    "nst",
    "ofa",
    "ofd",
    "ofd_margins",
    "permute_others",
    "pkt",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "same_size",
    "semckd",
    "skd",
    "sp",
    "spherical",
    "srd",
    "srrl",
    "srrl_features",
    "standardize",
    "tf_kd",
    "ttm",
    "uskd",
    "vid",
    "virtual_teacher",
    "wsld",
    "wttm",
]
