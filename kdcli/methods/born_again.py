"""Born-again networks: generations of one architecture, each taught by the one before it

Paper: T. Furlanello, Z. C. Lipton, M. Tschannen, L. Itti, A. Anandkumar, Born-again neural
networks, ICML 2018, arXiv:1805.04770.
Reference code: https://github.com/SforAiDl/KD_Lib@3f1d8ecc KD_Lib/KD/vision/BANN/BANN.py

    A_0 = teacher, and for k = 1 .. G, with A_k-1 frozen and A_k fresh:
    L_k = w_ce CE(z_k, y) + w D(z_k-1, z_k)
    kd      D = tau^2 mean KL( softmax(z_k-1 / tau) || softmax(z_k / tau) ),   tau = 1
    cwtm    D = sum_i w_i CE(z_k,i, y_i) / sum_i w_i,   w_i = max_c softmax(z_k-1,i)_c
            only how sure the teacher is
    dkpp    as kd, with the classes other than the teacher's first permuted, afresh for each image
            and epoch

One stage a generation. All have the student's architecture, which the paper takes equal to the
teacher's. The last generation is the student: it is what is shipped, with ensemble = true together
with all the others, as the mean of their softmaxes.

Differs from the paper: both terms weigh a half where the paper adds them up, so that a learning
rate keeps its meaning; ce_weight = weight = 1 is its sum, ce_weight = 0 its form without labels. KL
instead of cross-entropy with soft targets.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core import random
from kdcli.core.method import Arity, Method, MethodOptions, Setup, Stage
from kdcli.core.network import Network
from kdcli.core.types import Batch, Progress, Step
from kdcli.modules.composite import Composite

FAMILY = "chain"


class Options(MethodOptions):
    """Options of born-again networks."""

    generations: int = Field(
        3, ge=1, description="Networks trained one after another; the last is the student."
    )
    variant: Literal["kd", "cwtm", "dkpp"] = Field(
        "kd", description="What a generation learns from the one before it."
    )
    temperature: float = Field(
        1.0, gt=0, description="Softmax temperature tau of both sides, in kd and dkpp."
    )
    weight: float = Field(
        0.5, ge=0, description="Weight of what is learnt from the generation before."
    )
    ce_weight: float = Field(0.5, ge=0, description="Weight of the cross-entropy.")
    ensemble: bool = Field(
        default=False, description="Ship all generations together, as the mean of their softmaxes."
    )


class BornAgain(Method):
    """Trains one generation after another."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    mixes = False  # it reads labels itself
    trains = "student, once a generation"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.earlier = nn.ModuleList(setup.build("student") for _ in range(options.generations - 1))

    def stages(self) -> list[Stage]:
        earlier = [
            Stage(
                f"generation{number}",
                (network,),
                partial(self._generation, number),
                network=network,
            )
            for number, network in enumerate(self._generations()[:-1], 1)
        ]
        return [
            *earlier,
            Stage(
                f"generation{self.options.generations}",
                (self.student,),
                partial(self._generation, self.options.generations),
            ),
        ]

    @classmethod
    def needs_labels(cls, options: Options) -> str:  # type: ignore[override]  # its own options
        return "cwtm weighs by the confidence in the label" if options.variant == "cwtm" else ""

    def deployable(self) -> Network:
        """The last generation, or all of them."""
        return (
            Composite(self._generations(), "mean_probabilities")
            if self.options.ensemble
            else self.student
        )

    def _generations(self) -> list[Network]:
        return [*self.earlier, self.student]

    def _generation(self, number: int, batch: Batch, at: Progress) -> Step:
        z, v = self._generations()[number - 1](batch.x).logits, self._before(number, batch)
        ce = self.options.ce_weight * losses.cross_entropy(z, batch.y)
        return Step(
            {
                "ce": ce,
                self.options.variant: self.options.weight
                * self._inherited(z, v, number, batch, at),
            },
            z,
        )

    def _before(self, number: int, batch: Batch) -> Tensor:
        if number == 1:
            return self.teacher(batch).logits
        with torch.no_grad():
            return self._generations()[number - 2](batch.x).logits  # type: ignore[no-any-return]

    def _inherited(self, z: Tensor, v: Tensor, number: int, batch: Batch, at: Progress) -> Tensor:
        if self.options.variant == "cwtm":
            return losses.confidence_weighted(z, v, batch.y)
        if self.options.variant == "dkpp":
            classes = v.shape[1]
            counters = batch.index.unsqueeze(1) * classes + batch.index.new_ones(classes).cumsum(0)
            v = losses.permute_others(
                v, random.uniform(random.key(self.seed, "dkpp", number, at.epoch), counters)
            )
        return losses.kd(z, v, temperature=self.options.temperature)
