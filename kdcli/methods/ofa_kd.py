"""One for all: exits of the student learn the teacher's logits, whatever kinds of network these are

Paper: Z. Hao, J. Guo, K. Han, Y. Tang, H. Hu, Y. Wang, C. Xu, One-for-all: bridge the gap between
heterogeneous architectures in knowledge distillation, NeurIPS 2023, arXiv:2310.19444.
Reference code: https://github.com/Hao840/OFAKD@12eeba86 distillers/ofa.py, distillers/utils.py

    L = w_ce CE(z, y) + w_kd O(z, v) + w sum_l O(e_l, v)
    O(z, v) = -mean_i sum_k ( (q_ik + [k = y_i])^eps - [k = y_i] ) log p_ik,   p, q at tau

e_l are the logits of an exit after each stage: of a convolutional student separable convolutions
that halve the map as often as the network still does, a pool and a linear layer; of a transformer
blocks of a transformer, the mean of its tokens and a linear layer (kdcli.modules.logit_exit). All
is trained and thrown away. eps above 1 makes more of the label and less of what the teacher says of
the other classes; with eps = 1, O is the cross-entropy with the teacher's probabilities. Of the
teacher nothing but logits is read, so that it may be of any kind.

eps is searched in the paper for each pair; the code's default is 1, and its example, DeiT-T to
ResNet18 on ImageNet, has 1.5. Weights of 1 and a temperature of 1 are the code's.

Differs from the paper: nothing is known to. Differs from the code: exits of a transformer read the
mean of its tokens, not its class token, which taps leave out; the last layer of a convolutional
exit is as wide as the student's own last layer reads, not the larger of student's and teacher's,
unless `width` says so.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.taps import check_maps
from kdcli.core.types import Batch, Progress, Step
from kdcli.modules.logit_exit import ConvolutionExit, TokenExit

FAMILY = "feature"


class Options(MethodOptions):
    """Options of one-for-all distillation."""

    eps: float = Field(1.0, ge=1, description="Power that the label's share is raised by.")
    temperature: float = Field(1.0, gt=0, description="Softmax temperature tau of all sides.")
    weight: float = Field(1.0, ge=0, description="Weight of the exits, each.")
    kd_weight: float = Field(1.0, ge=0, description="Weight of the same on the student's logits.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")
    width: int | None = Field(
        None,
        ge=1,
        description=(
            "Channels that the last layer of a convolutional exit reads; as many as the student's "
            "own last layer unless given."
        ),
    )


class OneForAll(Method):
    """Trains the student, and an exit after each of its stages, on labels and a teacher of any
    kind.
    """

    options: Options
    teachers = Arity(1, None)
    student_taps = ("stage*",)
    consumes = "maps of all stages, teacher logits"
    trains = "student, exits"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        check_maps(self.student, self.taps.student, "ofa_kd")
        classes, taps = setup.data.num_classes, self.student.taps
        _, height, width = setup.data.input_shape
        last = len(self.taps.student) - 1
        exits: list[nn.Module] = []
        for number, name in enumerate(self.taps.student):
            place, later = taps[name], last - number
            if "block1" in taps:
                assert place.stride is not None
                grid = (height // place.stride, width // place.stride)
                exits.append(TokenExit(place.channels, classes, grid, max(later, 1)))
            else:
                wide = options.width or self.student.head.in_features
                exits.append(ConvolutionExit(place.channels, wide, classes, later))
        self.exits = nn.ModuleList(exits)

    @classmethod
    def needs_labels(cls, options: MethodOptions) -> str:
        assert isinstance(options, Options)
        return "" if options.eps == 1 else "eps raises the label's share of the teacher's answer"

    def loss(self, batch: Batch, at: Progress) -> Step:
        options = self.options
        z, taps = self.student(batch.x, self.taps.student)
        v = self.teacher(batch).logits
        rest = {"eps": options.eps, "temperature": options.temperature}
        exits = torch.stack(
            [
                losses.ofa(leave(taps[name]), v, batch.y, **rest)
                for leave, name in zip(self.exits, self.taps.student, strict=True)
            ]
        )
        return Step(
            {
                "ce": options.ce_weight * losses.cross_entropy(z, batch.y),
                "kd": options.kd_weight * losses.ofa(z, v, batch.y, **rest),
                "exits": options.weight * exits.sum(),
            },
            z,
        )
