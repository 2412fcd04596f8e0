"""FT: factor transfer, the teacher's last map paraphrased and the student's translated

Paper: J. Kim, S. Park, N. Kwak, Paraphrasing complex network: network compression via factor
transfer, NeurIPS 2018, arXiv:1802.04977.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/FT.py,
models/util.py, helper/pretrain.py

    L_1 = mean (P(f_t) - f_t)^2
    L_2 = w_ce CE(z, y) + w_kd KD(z, v) + w mean |Q(T(f_s)) - Q(E(f_t))|^p

The paraphraser P is a convolutional autoencoder of the teacher's last map, E its first half; it is
trained in the first stage, then frozen. The translator T makes a factor of the student's last map
and is trained with it. Q makes factors comparable: where they are large (form = "code"), or the
signed factors divided by their norms (form = "paper"). Paraphraser and translator are thrown away.
The weight 200 is for pictures of 32x32: on 8x8 digits a tenth of it is enough
(docs/results/methods-on-digits.md).

Differs from the paper: the default form is that of the code, and means stand for sums.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup, Stage
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress, Step
from kdcli.methods._feature import FeatureMethod
from kdcli.methods._hint import learning_rate
from kdcli.modules.paraphraser import Paraphraser, Translator

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of factor transfer."""

    weight: float = Field(200.0, ge=0, description="Weight of the factors' term.")
    form: Literal["code", "paper"] = Field(
        "code", description="What of a factor is compared: where it is large, or all of it."
    )
    p: Literal[1, 2] = Field(1, description="Power of the differences.")
    rate: float = Field(
        0.5, gt=0, description="Channels of the factor as a share of the teacher's."
    )
    paraphraser_epochs: int = Field(
        30, ge=1, description="Epochs of the first stage, which trains the paraphraser."
    )
    paraphraser_lr: float | None = Field(
        None, gt=0, description="Learning rate of the first stage; the recipe's unless given."
    )


class FactorTransfer(FeatureMethod):
    """Trains a paraphraser of the teacher, then the student so that its translated map is the
    paraphrase.
    """

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("last",)
    teacher_taps = ("last",)
    consumes = "map of the last stage"
    trains = "paraphraser; then student, translator"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        ((ours, theirs),) = self.channels()
        factor = max(round(theirs * options.rate), 1)
        self.paraphraser = Paraphraser(theirs, factor)
        self.translator = Translator(ours, factor)

    def stages(self) -> list[Stage]:
        options = self.options
        first = Stage(
            "paraphrase",
            (self.paraphraser,),
            self._paraphrase_loss,
            epochs=options.paraphraser_epochs,
            optim=learning_rate(options.paraphraser_lr),
        )
        return [first, Stage("distill", (self.student, self.translator), self.loss)]

    def _paraphrase_loss(self, batch: Batch, at: Progress) -> Step:
        teacher = self.teacher(batch, self.taps.teacher)
        target = teacher.taps[self.taps.teacher[0]]
        return Step(
            {"reconstruction": losses.fitnet(self.paraphraser(target), target)}, teacher.logits
        )

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        with torch.no_grad():
            factor = self.paraphraser.encode(t)
        return {
            "ft": self.options.weight
            * losses.ft(self.translator(s), factor, form=self.options.form, p=self.options.p)
        }
