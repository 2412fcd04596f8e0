"""SimKD: the student's features learn to be the teacher's, whose last layer then reads them

Paper: D. Chen, J.-P. Mei, H. Zhang, C. Wang, Y. Feng, C. Chen, Knowledge distillation with the
reused teacher classifier, CVPR 2022, arXiv:2203.14001.
Reference code: https://github.com/DefangChen/SimKD@d0b9cded models/util.py, helper/loops.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w mean ( P(f_s) - f_t )^2,  z = W_t pool( P(f_s) ) + b_t

f_s and f_t are the last maps, P a projector of three convolutions (1x1, 3x3, 1x1) with batch norm
and ReLU after each, W_t and b_t the teacher's last layer. Only the last term is learnt from, no
label is read, and the student has no last layer of its own: what is trained, measured and deployed
is the student's body, the projector and a copy of the teacher's last layer, so its size is not
that of the student: compare by parameters too. The maps are compared at the smaller size.

Differs from the paper: nothing is known to, where both last layers read the average of a last map.
Elsewhere (further layers after the maps, a perceptron, tokens) the vectors that feed the last
layers take the place of the maps, and the projector is three 1x1 convolutions on one position.
Labels and the teacher's logits may be learnt from besides, through the same last layer.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup, Stage, Taps
from kdcli.core.network import Network
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress, Step
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.reused_head import Projector, ReusedHead, behead, bridge, copied_head

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of SimKD."""

    ce_weight: float = Field(0.0, ge=0, description="Weight of the cross-entropy.")
    weight: float = Field(1.0, ge=0, description="Weight of the difference of the features.")
    factor: int = Field(
        2,
        ge=1,
        description="The projector's inner convolutions have the teacher's channels by this.",
    )


class ReusedClassifier(FeatureMethod):
    """Trains the student's body and a projector to give what the teacher's last layer reads."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("pooled",)
    teacher_taps = ("pooled",)
    consumes = "last map, teacher head"
    trains = "student without its head, projector"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.head = copied_head(self.teacher_net)
        ours, theirs = bridge(self.student, self.teacher_net)
        self.taps = Taps((ours,), (theirs,))
        place = self.teacher_net.taps[theirs]
        inner = max(place.channels // options.factor, 1)
        self.projector = Projector(self.student.taps[ours], place, inner)
        behead(self.student)

    def stages(self) -> list[Stage]:
        return [Stage("distill", (self.student, self.projector), self.loss)]

    def deployable(self) -> Network:
        """The student's body, the projector and the teacher's last layer."""
        return ReusedHead(self.student, self.taps.student[0], self.projector, self.head)

    def loss(self, batch: Batch, at: Progress) -> Step:
        read, teacher = self.read(batch)
        projected = self.projector(read.taps[self.taps.student[0]])
        z = self.deployable().classify(projected.mean((2, 3)))
        student = Output(z, {self.taps.student[0]: projected})
        terms = self.logit_terms(student, teacher, batch)
        return Step(terms | self.terms(student, teacher, batch, at), z)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        ((s, t),) = self.pairs(student, teacher)
        t = t if t.ndim == 4 else t[:, :, None, None]
        return {"simkd": self.options.weight * losses.fitnet(s, t)}
