"""Curriculum temperature: a temperature that learns to make the student's task harder

Paper: Z. Li, X. Li, L. Yang, B. Zhao, R. Song, L. Luo, J. Li, J. Yang, Curriculum temperature for
knowledge distillation, AAAI 2023, arXiv:2211.16231.
Reference code: https://github.com/zhengli97/CTKD@8ca3ce81 train_student.py, helper/loops.py;
https://github.com/sunshangquan/logit-standardization-KD@6083e2de CTKD/models/temp_global.py

    L = w_ce CE(z, y) + w mean_i tau_i^2 KL( softmax(v_i / tau_i) || softmax(z_i / tau_i) ),
    tau = least + (most - least) sigmoid(x)

The student lowers L, and x raises it: the gradient that reaches x is multiplied by -lambda.
kind "global" has one x, trained like any weight; kind "instance" makes one for each image with two
layers that read what student and teacher say of it. x begins at 1, so tau at 15.6 of 1 to 21, and
no x leaves these bounds.

lambda grows from 0 to `reversal` over the first curriculum_epochs, along a cosine or a line; in
epoch e of E it is reversal (1 - cos(pi e / E)) / 2. The weight decay of [optim] holds for x too,
and pulls it towards 0, the middle of the bounds.

Differs from the paper: nothing is known to for "global". The code of "instance" was not released:
its two layers read probabilities, have `width` hidden units, begin with x = 1 for every image, and
send no gradient to the student. Differs from the code: its linear curriculum ends one step short.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.types import Batch, Progress, Step
from kdcli.modules.temperature import LearntTemperature

FAMILY = "logit"

_WIDTH = 128


class Options(MethodOptions):
    """Options of curriculum temperature."""

    kind: Literal["global", "instance"] = Field(
        "global", description="One temperature for all images, or one for each."
    )
    temperature_least: float = Field(1.0, gt=0, description="Lower bound of the temperature.")
    temperature_most: float = Field(21.0, gt=0, description="Upper bound of the temperature.")
    reversal: float = Field(
        1.0, ge=0, description="Factor lambda of the reversed gradient once the curriculum ended."
    )
    curriculum_epochs: int = Field(
        10, ge=0, description="Epochs over which lambda rises to that; 0: it is there at once."
    )
    curriculum: Literal["cosine", "linear"] = Field("cosine", description="How it rises.")
    width: int | None = Field(
        None,
        ge=1,
        description='Hidden units of what reads an image, for kind "instance"; 128 unless given.',
    )
    weight: float = Field(0.9, ge=0, description="Weight of the distillation term.")
    ce_weight: float = Field(0.1, ge=0, description="Weight of the cross-entropy.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.temperature_least >= self.temperature_most:
            raise ValueError(
                f"temperature_least ({self.temperature_least:g}) must be below temperature_most "
                f"({self.temperature_most:g})"
            )
        if self.kind == "global" and self.width is not None:
            raise ValueError(
                'kind "global" has no hidden units, and width would do nothing: leave it out, or '
                'take kind "instance"'
            )
        return self


class CurriculumTemperature(Method):
    """Trains the student on labels and on a teacher whose temperature is trained against it."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    trains = "student, temperature"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.temperature = LearntTemperature(
            options.temperature_least,
            options.temperature_most,
            classes=setup.data.num_classes,
            width=None if options.kind == "global" else options.width or _WIDTH,
        )

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        soft = losses.kd_learnt(z, v, self.temperature(z, v, self._reversal(at)))
        ce = losses.cross_entropy(z, batch.y)
        return Step({"ce": self.options.ce_weight * ce, "kd": self.options.weight * soft}, z)

    def _reversal(self, at: Progress) -> float:
        done = at.warmup(self.options.curriculum_epochs)
        if self.options.curriculum == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.options.reversal * done
