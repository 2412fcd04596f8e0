"""Methods in two stages: the student's trunk learns the method's own terms alone, then the whole
student learns labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from kdcli.core.method import MethodOptions, Setup, Stage
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import UsageError
from kdcli.methods._feature import FeatureMethod


class HintedMethod(FeatureMethod):
    """A method whose own terms are learnt first, by the part of the student that they depend on,
    and whose second stage is

        L = w_ce CE(z, y) + w_kd KD(z, v)

    A subclass writes `terms` and names the length of its first stage.
    """

    options: FeatureOptions

    def __init__(self, options: FeatureOptions, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()
        if not self._second_stage_learns():
            raise UsageError(
                f"{type(self).__module__.rpartition('.')[2]}'s second stage has nothing to "
                "learn: all its weights are 0",
                hint="ce_weight = 1",
            )

    def _second_stage_learns(self) -> bool:
        return bool(self.options.ce_weight or self.options.kd_weight)

    @classmethod
    def undivided(cls, options: MethodOptions) -> str:
        assert isinstance(options, FeatureOptions)
        if options.kd_weight:
            return super().undivided(options)
        return "it learns labels in a stage of their own, unless method.kd_weight is above 0"

    def hint_stages(self, *helpers: nn.Module, epochs: int, lr: float | None) -> list[Stage]:
        """The two stages. helpers: trained with the trunk, then left alone. lr: of the first stage,
        None for the recipe's.
        """
        trunk = self.student.trunk(self.taps.student[-1])
        first = Stage(
            "hint", (*trunk, *helpers), self._hint_loss, epochs=epochs, optim=learning_rate(lr)
        )
        return [first, Stage("distill", (self.student,), self.loss)]

    def _hint_loss(self, batch: Batch, at: Progress) -> Step:
        student, teacher = self.read(batch)
        return Step(self.terms(student, teacher, batch, at), student.logits)

    def loss(self, batch: Batch, at: Progress) -> Step:
        student = self.student(batch.x)
        # a teacher that no term reads need not answer
        teacher = self.teacher(batch) if self.options.kd_weight else student
        return Step(self.logit_terms(student, teacher, batch), student.logits)


def learning_rate(lr: float | None) -> Mapping[str, float]:
    """A stage's overrides of [optim]: its learning rate, unless None."""
    return {} if lr is None else {"lr": lr}
