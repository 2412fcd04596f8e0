"""Neuron selectivity transfer: match the distributions of what neurons respond to

Paper: Z. Huang, N. Wang, Like what you like: knowledge distill via neuron selectivity transfer,
arXiv:1707.01219.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/NST.py;
https://github.com/megvii-research/mdistiller@e8c5bb33 mdistiller/distillers/NST.py

    L = w_ce CE(z, y) + w_kd KD(z, v) + w sum_l MMD^2(channels of f_s^l, channels of f_t^l),  kernel
    (a, b) = <a, b>^2

Each channel of a map, flattened over space and divided by its norm, is one point; the maximum mean
discrepancy compares the student's cloud of points with the teacher's, whatever the numbers and the
order of channels. The sum is over the stages' maps. The weight 50 is for pictures of 32x32: on 8x8
digits it costs a student 1.6 points (docs/results/methods-on-digits.md), a tenth of it nothing.

Differs from the paper: maps of all stages instead of the last, as in the reference code; of the
paper's kernels the polynomial one, of degree 2 and without a constant. The Gram matrices are matrix
products, which give the reference's number without its gigabytes.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Setup
from kdcli.core.options import FeatureOptions
from kdcli.core.types import Batch, Output, Progress
from kdcli.methods._feature import FeatureMethod

FAMILY = "feature"


class Options(FeatureOptions):
    """Options of neuron selectivity transfer."""

    weight: float = Field(50.0, ge=0, description="Weight of the discrepancy.")


class NeuronSelectivityTransfer(FeatureMethod):
    """Trains the student's channels to be distributed like the teacher's after each stage."""

    options: Options
    teachers = Arity(1, 1)
    student_taps = ("stage*",)
    teacher_taps = ("stage*",)
    consumes = "maps of all stages"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.require_maps()

    def terms(
        self, student: Output, teacher: Output, batch: Batch, at: Progress
    ) -> dict[str, Tensor]:
        s_maps, t_maps = zip(*self.pairs(student, teacher), strict=True)
        return {"nst": self.options.weight * losses.nst(s_maps, t_maps)}
