"""CRD: tell which of many remembered samples a vector belongs to

Paper: Y. Tian, D. Krishnan, P. Isola, Contrastive representation distillation, ICLR 2020,
arXiv:1910.10699.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd crd/criterion.py, crd/memory.py,
dataset/cifar100.py; https://github.com/megvii-research/mdistiller@e8c5bb33
mdistiller/distillers/CRD.py

    L = w_ce CE(z, y) + w_kd KD(z, v)
        + w ( NCE(e_s against the teacher's memory) + NCE(e_t against the student's memory) )
    NCE = -mean_i [ log( o_0 / (o_0 + c) ) + sum_k log( c / (o_k + c) ) ],
        o = exp(<m, e> / tau) / Z,  c = K / num_train

e_s and e_t are the vectors that feed the heads, each after a linear layer of its own and divided by
its norm; both layers are trained. A memory holds one such vector for each training image and
follows it with momentum. o_0 belongs to the positive: the image itself, or one of its class (mode =
"relax"); K negatives are of other classes. Z makes the first minibatch's o have mean 1 / num_train.
Memories and Z are buffers: a resumed run goes on with them. On several ranks all remember the
vectors of all.

Differs from the paper: nothing is known to. Differs from both codes: K is at most the number of
images of other classes that every image has, where they would draw some twice; and images of a
minibatch read their negatives from one shuffled list, drawn on the device (kdcli.modules.bank),
where they draw apart, in the loader.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdcli import losses
from kdcli.core import random
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.errors import Incompatible
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.bank import ClassSampler, MemoryBank

FAMILY = "contrastive"

_NEGATIVES = 16_384


class Options(FeatureOptions):
    """Options of contrastive representation distillation."""

    weight: float = Field(0.8, ge=0, description="Weight of the contrastive terms.")
    negatives: int | None = Field(
        None,
        ge=1,
        description=(
            "Negatives K for each image; 16384, or all images of other classes if there are "
            "fewer, unless given."
        ),
    )
    mode: Literal["exact", "relax"] = Field(
        "exact", description="The positive: the image itself, or one of its class at random."
    )
    width: int = Field(128, ge=1, description="Length of the vectors that are compared.")
    contrast_temperature: float = Field(0.07, gt=0, description="Temperature tau of the contrast.")
    momentum: float = Field(
        0.5, ge=0, lt=1, description="Share of its old value that a remembered vector keeps."
    )


class ContrastiveRepresentation(FeatureMethod):
    """Trains student and two embeddings so that vectors of one image are close, and of images of
    other classes are not.
    """

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("pooled",)
    teacher_taps = ("pooled",)
    consumes = "pooled vector, image indices"
    mixes = False  # its memory is of single images
    labels_for = "it tells pictures of one class from those of others"
    trains = "student, embeddings of student and teacher"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.gather = setup.gather
        self.sampler = ClassSampler(setup.data.targets)
        self.negatives = self._count(options.negatives)
        ((ours, theirs),) = self.channels()
        self.embed_student = nn.Linear(ours, options.width)
        self.embed_teacher = nn.Linear(theirs, options.width)
        self.student_memory = MemoryBank(setup.data.num_train, options.width)
        self.teacher_memory = MemoryBank(setup.data.num_train, options.width)

    def _count(self, wanted: int | None) -> int:
        there = self.sampler.others
        if there < 1:
            raise Incompatible(
                f"crd needs images of other classes, and all that {self.data.name} trains on "
                "are of one",
                hint="--method kd",
            )
        if wanted is not None and wanted > there:
            raise Incompatible(
                f"crd is to draw {wanted} negatives, and images of the largest class of "
                f"{self.data.name} have {there} of other classes",
                hint=f"method.negatives = {there} or less",
            )
        return min(_NEGATIVES, there) if wanted is None else wanted

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((h_s, h_t),) = self.pairs(student, teacher)
        e_s = functional.normalize(self.embed_student(h_s).float(), dim=1)
        e_t = functional.normalize(self.embed_teacher(h_t).float(), dim=1)
        drawn = self._sample(batch, at)
        sides = [
            self._side(self.teacher_memory, e_s, drawn),
            self._side(self.student_memory, e_t, drawn),
        ]
        if self.training:
            index = self.gather(batch.index)
            self.student_memory.update(index, self.gather(e_s), self.options.momentum)
            self.teacher_memory.update(index, self.gather(e_t), self.options.momentum)
        return {"crd": self.options.weight * (sides[0] + sides[1])}

    def _side(self, memory: MemoryBank, vectors: Tensor, drawn: Tensor) -> Tensor:
        ratios = memory.ratios(vectors, drawn, self.options.contrast_temperature, self.gather)
        return losses.crd(ratios, num_train=self.data.num_train)

    def _sample(self, batch: Batch, at: Progress) -> Tensor:
        """Indices [B,1+K]: the positive of each image, then its negatives."""
        positive, index = batch.index, batch.index
        if self.options.mode == "relax":
            positive = self.sampler.sample_same(
                index, random.key(self.seed, "crd positive", at.epoch, at.step)
            )
        negatives = self.sampler.sample_others(
            index, self.negatives, random.key(self.seed, "crd negatives", at.epoch, at.step)
        )
        return torch.cat([positive.unsqueeze(1), negatives], 1)
