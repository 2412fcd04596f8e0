"""The base of methods on features: labels, an optional term on the logits, and terms of their own
on taps.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from kdcli import losses
from kdcli.core.method import FeatureOptions, Method, Setup, Taps
from kdcli.core.network import Network
from kdcli.core.taps import check_maps, name_of
from kdcli.core.types import Batch, Output, Progress, Step
from kdcli.errors import Incompatible


class FeatureMethod(Method):
    """A method whose own terms are about features.

        L = w_ce CE(z, y) + w_kd tau^2 KL(softmax(v / tau) || softmax(z / tau)) + its own terms

    A subclass writes `terms`. Its student's and its teacher's taps are compared one by one: where
    one network has more stages, the last ones are paired, and the earlier ones of the deeper
    network are not read.
    """

    options: FeatureOptions

    def __init__(self, options: FeatureOptions, setup: Setup) -> None:
        super().__init__(options, setup)
        count = min(len(self.taps.student), len(self.taps.teacher))
        self.taps = Taps(self.taps.student[-count:], self.taps.teacher[-count:])

    @property
    def teacher_net(self) -> Network:
        """The teacher's network: its declared taps, its head and its norms; never called, and never
        assigned to `self`.
        """
        return self.teacher.network

    def require_maps(self) -> None:
        """Refuses taps that are vectors.

        Raises:
            Incompatible: names the tap and its network.
        """
        who = type(self).__module__.rpartition(".")[2]
        check_maps(self.student, self.taps.student, who)
        check_maps(self.teacher_net, self.taps.teacher, who)

    def channels(self) -> list[tuple[int, int]]:
        """Channels of each pair of taps, student's first."""
        student, teacher = self.student.taps, self.teacher_net.taps
        return [(student[s].channels, teacher[t].channels) for s, t in zip(*self.taps, strict=True)]

    def read(self, batch: Batch) -> tuple[Output, Output]:
        """Logits and taps of student and teacher for a batch."""
        return self.student(batch.x, self.taps.student), self.teacher(batch, self.taps.teacher)

    def pairs(self, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
        """The values of each pair of taps, student's first."""
        return [(student.taps[s], teacher.taps[t]) for s, t in zip(*self.taps, strict=True)]

    def loss(self, batch: Batch, at: Progress) -> Step:
        student, teacher = self.read(batch)
        return Step(
            self.logit_terms(student, teacher, batch) | self.terms(student, teacher, batch, at),
            student.logits,
        )

    def logit_terms(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms on labels and on the teacher's logits; what weighs nothing is left
        out.
        """
        options, terms = self.options, {}
        if options.ce_weight:
            terms["ce"] = options.ce_weight * losses.cross_entropy(student.logits, batch.y)
        if options.kd_weight:
            terms["kd"] = options.kd_weight * losses.kd(
                student.logits, teacher.logits, temperature=options.temperature
            )
        return terms

    @abstractmethod
    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        """The method's own weighted terms by name."""


def require_equal_channels(method: FeatureMethod, why: str) -> None:
    """Refuses pairs of taps whose channels differ.

    Raises:
        Incompatible: names the first such pair and both networks. why: what the method needs it
            for.
    """
    for (ours, theirs), s, t in zip(method.channels(), *method.taps, strict=True):
        if ours != theirs:
            raise Incompatible(
                f"{why}: {name_of(method.student)} has {ours} channels at {s!r}, its teacher "
                f"{name_of(method.teacher_net)} has {theirs} at {t!r}",
                hint=(
                    "a pair of one family and width, such as resnet56 and resnet20, or another "
                    "method: kd methods"
                ),
            )
