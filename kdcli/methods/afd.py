"""AFD: show, attend and distill, each layer of the teacher teaches those of the student that fit it

Paper: M. Ji, B. Heo, S. Park, Show, attend and distill: knowledge distillation via attention-based
feature matching, AAAI 2021, arXiv:2102.02973.
Reference code: https://github.com/clovaai/attention-feature-distillation@42a3077e distill/AFD.py,
main.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w sum_t mean_b sum_s a_bts mean ( Q(f_s) - Q(f_t) )^2,  Q(f)
    = m / |m|, m = mean_c f_c^2

Q says where in the picture the energy of a layer lies, as in attention transfer; a student's is
pooled to the size of the teacher's first. The attention a_b of a picture sums to 1 over the
student's layers s; it comes from the channels' averages and from learnt places
(kdcli.modules.layer_attention), is trained and thrown away.

Differs from the paper: layers are the maps of the stages, where that code takes every
residual block. Weights are that code's for CIFAR-100 and wrn_40_2 to wrn_16_2.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup, Taps
from kdcli.core.options import FeatureOptions
from kdcli.core.taps import expand
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod
from kdcli.modules.layer_attention import ChannelAttention

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of AFD."""

    kd_weight: float = Field(0.9, ge=0, description="Weight of Hinton's term on the logits.")
    weight: float = Field(200.0, ge=0, description="Weight of the energies' difference.")
    width: int = Field(128, ge=1, description="Length of the queries and keys.")


class AttendedFeatures(FeatureMethod):
    """Trains the student to look where the teacher looks, in the layers that attention pairs."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*",)
    teacher_taps = ("stage*",)
    consumes = "maps of all stages, teacher logits"
    trains = "student, attention"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        # every layer meets every layer: none is left out where one network is deeper
        self.taps = Taps(
            expand(self.student, self.student_taps, "afd"),
            expand(self.teacher_net, self.teacher_taps, "afd"),
        )
        self.require_maps()
        ours = [self.student.taps[tap].channels for tap in self.taps.student]
        theirs = [self.teacher_net.taps[tap].channels for tap in self.taps.teacher]
        self.attention = ChannelAttention(ours, theirs, options.width)

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        s_maps = [student.taps[tap] for tap in self.taps.student]
        t_maps = [teacher.taps[tap] for tap in self.taps.teacher]
        loss = losses.afd(s_maps, t_maps, self.attention(s_maps, t_maps))
        return {"afd": self.options.weight * loss}
