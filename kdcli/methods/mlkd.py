"""Multi-level logit distillation: single answers, images and classes, at several temperatures

Paper: Y. Jin, J. Wang, D. Lin, Multi-level logit distillation, CVPR 2023; with standardised logits
S. Sun, W. Ren, J. Li, R. Wang, X. Cao, Logit standardization in knowledge distillation, CVPR 2024,
arXiv:2403.01427.
Reference code: https://github.com/Jin-Ying/Multi-Level-Logit-Distillation@6327e733
mdistiller/distillers/KD_ours.py; https://github.com/sunshangquan/logit-standardization-KD@6083e2de
mdistiller/distillers/MLKD.py

    L = w_ce CE(z, y) + w sum_tau [ KD_tau + b 1/N |P P^T - Q Q^T|^2 + c 1/K |P^T P - Q^T Q|^2 ]

P and Q are the softmaxes of student and teacher at temperature tau, [N,K], and KD_tau is the loss
of plain distillation there. P P^T says which images of a minibatch are answered alike, P^T P which
classes are named together: so the batch matters, and each process that trains looks at its own
part. The paper weighs all alike, at batch 64, learning rate 0.025 and a hundred classes. The last
term goes with (N / K)^2, a hundred times as much for ten classes: there c = 1 ruins students, and
0.1 does not (docs/results/methods-on-digits.md).

standardize puts z-scores of the logits into KD_tau, and there alone: the other terms see them as
they are. Published with it: temperatures 2, 3, 5, 2 and 6, w 9.

Differs from the paper: one view of each picture, that of the recipe. It has two, of a weak and a
strong augmentation, and adds the terms of both; no method asks for a second view here. Differs from
both codes, which multiply the weak view's terms by the share of images or classes that the teacher
is less sure of than the median, about a half, by averaging before they mask; which compare the
single answers of the strong view at two of the temperatures on the weak one; and which leave out
the other terms of the strong view, so that b and c are about a third there.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.types import Batch, Progress, Step
from kdcli.methods._checks import need_three_classes

FAMILY = "logit"


class Options(MethodOptions):
    """Options of multi-level logit distillation."""

    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (2.0, 3.0, 4.0, 5.0, 6.0),
        min_length=1,
        description="Softmax temperatures tau of both sides, whose terms are added up.",
    )
    weight: float = Field(0.9, ge=0, description="Weight of all three levels.")
    batch_level: float = Field(
        1.0, ge=0, description="Factor b of the images compared with each other."
    )
    class_level: float = Field(
        1.0, ge=0, description="Factor c of the classes compared with each other."
    )
    ce_weight: float = Field(0.1, ge=0, description="Weight of the cross-entropy.")
    standardize: bool = Field(
        default=False, description="Compare z-scores of the logits, in the single answers."
    )


class MultiLevelDistillation(Method):
    """Trains the student on labels and on the teacher's probabilities at three levels."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        if options.standardize:
            why = "z-scores of two logits are constants"
            need_three_classes("mlkd with standardize", setup.data, why)

    @classmethod
    def softening(cls, options: Options) -> float:  # type: ignore[override]  # its own options
        """The mean of its temperatures."""
        return sum(options.temperatures) / len(options.temperatures)

    def loss(self, batch: Batch, at: Progress) -> Step:
        options = self.options
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        seen = [losses.standardize(x) for x in (z, v)] if options.standardize else [z, v]
        taus = options.temperatures
        single = [losses.kd(*seen, temperature=tau) for tau in taus]
        images = [losses.batch_level(z, v, temperature=tau) for tau in taus]
        classes = [losses.class_level(z, v, temperature=tau) for tau in taus]
        return Step(
            {
                "ce": options.ce_weight * losses.cross_entropy(z, batch.y),
                "kd": options.weight * torch.stack(single).sum(),
                "batch": options.weight * options.batch_level * torch.stack(images).sum(),
                "class": options.weight * options.class_level * torch.stack(classes).sum(),
            },
            z,
        )

    @classmethod
    def aligned(cls, options: MethodOptions, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if getattr(options, "standardize", False):
            # z-scores of both, times the teacher's spread
            return losses.match_spread(z, like=v), v
        return z, v
