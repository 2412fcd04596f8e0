"""Contrastive losses: one positive among many negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcli.errors import Incompatible, UsageError
from kdcli.losses._inputs import precise

_EPS = 1e-7


def crd(ratios: Tensor, *, num_train: int) -> Tensor:
    """One side of contrastive representation distillation: noise-contrastive estimation over K
    negatives.

        -(1 / N) sum_i ( log( o_i0 / (o_i0 + c + eps) ) + sum_k log( c / (o_ik + c + eps) ) ),  c =
        K / num_train, eps = 1e-7

    The method's loss is the sum of two: student vectors against the teacher's memory and teacher
    vectors against the student's.
    Source: Tian, Krishnan, Isola 2020, Contrastive representation distillation;
    RepDistiller@5237c1fd crd/criterion.py computes the same number.

    Args:
        ratios: [N,1+K], exp(<memory, vector> / temperature) / Z, the positive in the first column;
            not negative.
        num_train: samples in the memory.

    Raises:
        Incompatible: not [N,1+K] with N and K of at least 1.
        UsageError: num_train below 1.
    """
    if ratios.ndim != 2 or ratios.shape[0] == 0 or ratios.shape[1] < 2:
        raise Incompatible(
            "losses.crd needs ratios [N, 1 + K] of a positive and K negatives, got "
            f"{list(ratios.shape)}"
        )
    if num_train < 1:
        raise UsageError(f"losses.crd: num_train must be at least 1, got {num_train}")
    o = precise(ratios)
    c = (o.shape[1] - 1) / num_train
    # an underflow would make the loss infinite
    positive = o[:, 0].clamp_min(torch.finfo(o.dtype).tiny)
    missed = (positive + (c + _EPS)).log() - positive.log()
    # log1p: thousands of negatives add up, and log(c) by itself would swallow the digits
    mistaken = ((o[:, 1:] + _EPS) / c).log1p().sum(1)
    return (missed + mistaken).mean()
