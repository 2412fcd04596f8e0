"""ONE: branches of one network are gated to an ensemble, from which each of them learns

Paper: X. Lan, X. Zhu, S. Gong, Knowledge distillation by on-the-fly native ensemble, NeurIPS 2018,
arXiv:1806.04606.
Reference code: https://github.com/Lan1991Xu/ONE_NeurIPS2018@9da95a8b cifar_one.py,
models/cifar/resnet.py, loss/kl_loss.py

    L = sum_m CE(z_m, y) + CE(z_e, y) + w r(t) tau^2 sum_m mean KL( softmax(z_e / tau) ||
    softmax(z_m / tau) ),   z_e = sum_m g_m z_m

The student is one branch; the others are fresh copies of its last stage and head, on the same map
of the stage before. g, a gate on that map, weighs the branches image by image
(kdcli.modules.gate). All are trained; the student alone is evaluated and shipped. z_e gets no
gradient where it teaches. r(t) = exp( -5 (1 - t)^2 ) rises to 1 over warmup_epochs, t from 0 to 1.
Logs call the terms ce, ensemble (the student's), branch1_ce, ..., and gate_ce for CE(z_e, y).

Three branches and tau = 3 are the paper's; 80 epochs of rising, of 300, the code's.

Differs from the paper: nothing is known to. The student is one of kd's networks of stages, which
can be cut; of other libraries none is.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup, Taps
from kdcli.core.taps import check_maps, name_of
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import Incompatible
from kdcli.modules.gate import Gate

FAMILY = "online"


class Options(MethodOptions):
    """Options of the on-the-fly native ensemble."""

    branches: int = Field(3, ge=2, le=16, description="Branches, the student's own one of them.")
    temperature: float = Field(3.0, gt=0, description="Softmax temperature tau of all sides.")
    weight: float = Field(1.0, ge=0, description="Weight of what branches learn from all.")
    warmup_epochs: int = Field(80, ge=0, description="Epochs over which that rises.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of every cross-entropy.")


class NativeEnsemble(Method):
    """Trains the student and further branches of it together."""

    options: Options
    teachers = Arity(0, 0)
    student_taps = ("stage*",)
    consumes = "labels, map of the stage before the last, branches' logits"
    trains = "student, branches, gate"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        *_, shared = ("", *self.taps.student[:-1])
        if not shared:
            raise Incompatible(
                f"one shares all stages but the last, and {name_of(self.student)} has one stage",
                hint="--method dml, whose networks share nothing",
            )
        self.taps = Taps((shared,), ())
        check_maps(self.student, self.taps.student, "one")
        self.student.tail(shared)  # refused before others are built
        self.branches = nn.ModuleList(
            setup.build("student").tail(shared) for _ in range(options.branches - 1)
        )
        self.gate = Gate(self.student.taps[shared].channels, options.branches)

    def loss(self, batch: Batch, at: Progress) -> Step:
        options = self.options
        z, taps = self.student(batch.x, self.taps.student)
        (shared,) = taps.values()
        # a copy for each: parts may work in place
        answers = [z, *(branch(shared.clone()) for branch in self.branches)]
        together = (self.gate(shared).unsqueeze(-1) * torch.stack(answers, 1)).sum(1)
        terms: dict[str, Tensor] = {}
        for number, answer in enumerate(answers):
            prefix = f"branch{number}_" if number else ""
            soft = losses.kd(answer, together, temperature=options.temperature)
            terms[f"{prefix}ce"] = options.ce_weight * losses.cross_entropy(answer, batch.y)
            terms[f"{prefix}ensemble"] = options.weight * self._risen(at) * soft
        terms["gate_ce"] = options.ce_weight * losses.cross_entropy(together, batch.y)
        return Step(terms, z)

    def _risen(self, at: Progress) -> float:
        most = self.options.warmup_epochs
        return math.exp(-5 * (1 - min((at.epoch - 1) / most, 1.0)) ** 2) if most else 1.0
