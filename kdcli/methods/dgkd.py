"""Densely guided distillation: every network of a chain learns from all larger ones

Paper: W. Son, J. Na, J. Choi, W. Hwang, Densely guided knowledge distillation using multiple
teacher assistants, ICCV 2021, arXiv:2009.08825.
Reference code: https://github.com/wonchulSon/DGKD@2599350e train.py

    A_0 = teacher, A_n+1 = student, and for i = 1 .. n+1, with all larger networks frozen:
    L_i = w_ce CE(z_i, y) + w tau^2 sum_j<i mean KL( softmax(z_j / tau) || softmax(z_i / tau) )

At each step some of the terms are dropped, the same ones for every image: `drop` of them as the
released code does, or each with probability 1 - survival as the paper describes; never all. The
first assistant has one teacher, so its loss is that of kd.

Differs from the paper: KL is summed over classes and the cross-entropy stays in; the released code
averages over classes and has no labels (weight = 1). Assistants teach as their last epoch left
them. With dense_normalise = "mean" the terms that are left are averaged, so that weight means the
same for any number of them.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from kdcli import losses
from kdcli.core import random
from kdcli.core.method import Arity
from kdcli.core.options import ChainOptions
from kdcli.core.types import Batch, Progress, Step
from kdcli.methods._assistant_chain import ChainMethod

FAMILY = "chain"


class Options(ChainOptions):
    """Options of densely guided distillation."""

    temperature: float = Field(
        5.0, gt=0, description="Softmax temperature tau of all sides, in every link."
    )
    drop: int = Field(
        1, ge=0, description="Distillation terms dropped at each step; one is always left."
    )
    survival: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Instead of drop: probability that a term stays, each by itself.",
    )
    dense_normalise: Literal["sum", "mean"] = Field(
        "sum", description="The terms that are left are summed, or averaged."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.survival is not None and self.drop != 1:
            raise ValueError(
                "survival and drop are two ways to drop terms, and drop would do nothing: leave "
                "one of them out"
            )
        return self


class DenselyGuided(ChainMethod):
    """Trains each assistant, and then the student, from the teacher and all larger assistants."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    trains = "assistants, then student"
    cacheable = True

    def link(self, position: int, batch: Batch, at: Progress) -> Step:
        options = self.options
        z = self.learner(position)(batch.x).logits
        left = self.guides(position, at.step)
        terms = torch.stack(
            [
                losses.kd(z, self.answer(guide, batch), temperature=options.temperature)
                for guide in left
            ]
        )
        soft = terms.mean() if options.dense_normalise == "mean" else terms.sum()
        return Step(
            {
                "ce": self.ce_weight() * losses.cross_entropy(z, batch.y),
                "kd": options.weight * soft,
            },
            z,
        )

    def guides(self, position: int, step: int) -> list[int]:
        """The larger networks that teach the one at a position in a step: 0 the teacher, j the
        assistant j. At least one.
        """
        stream = random.key(self.seed, "dgkd", position, step)
        lots = {guide: random.uniform_int(stream, guide) for guide in range(position + 1)}
        drawn = sorted(lots, key=lots.__getitem__)
        survival = self.options.survival
        if survival is None:
            return sorted(drawn[: max(len(drawn) - self.options.drop, 1)])
        return [guide for guide in lots if lots[guide] < survival] or drawn[:1]
