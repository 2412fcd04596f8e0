"""Logit standardisation: distil between z-scored logits

Paper: S. Sun, W. Ren, J. Li, R. Wang, X. Cao, Logit standardization in knowledge distillation, CVPR
2024, arXiv:2403.01427.
Reference code: https://github.com/sunshangquan/logit-standardization-KD@6083e2de
mdistiller/distillers/KD.py

    Z(x) = (x - mean_k x) / std_k x
    L = w_ce CE(z, y) + w tau^2 mean_i KL( softmax(Z(v_i) / tau) || softmax(Z(z_i) / tau) )

The standard deviation divides by K - 1. The cross-entropy sees the raw logits: only the
distillation term leaves the student's scale free. Published pairs (tau, w) on CIFAR-100 range over
2 to 4 and 6 to 18.

Differs from the paper: no 1e-7 is added to the standard deviation; a row without spread is centred
and not scaled, so that its gradient stays finite. Two classes are refused, because then only the
sign of the logits would be left.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.types import Batch, Progress, Step
from kdcli.methods._checks import need_three_classes

FAMILY = "logit"


class Options(MethodOptions):
    """Options of logit standardisation."""

    temperature: float = Field(2.0, gt=0, description="Softmax temperature tau of the z-scores.")
    weight: float = Field(9.0, ge=0, description="Weight of the distillation term.")
    ce_weight: float = Field(0.1, ge=0, description="Weight of the cross-entropy.")


class LogitStandardisation(Method):
    """Trains the student on labels and on the shape, not the scale, of the teacher's logits."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    cacheable = True
    scale_free = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        need_three_classes("logit_std", setup.data, "z-scores of two logits are constants")

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        soft = losses.kd(
            losses.standardize(z), losses.standardize(v), temperature=self.options.temperature
        )
        ce = losses.cross_entropy(z, batch.y)
        return Step({"ce": self.options.ce_weight * ce, "kd": self.options.weight * soft}, z)

    @classmethod
    def aligned(cls, options: MethodOptions, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG003  whatever they are
        # z-scores of both, times the teacher's spread
        return losses.match_spread(z, like=v), v
