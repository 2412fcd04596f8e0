"""CA-MKD: several teachers, each counting picture by picture as much as it knows the label

Paper: H. Zhang, D. Chen, C. Wang, Confidence-aware multi-teacher knowledge distillation,
ICASSP 2022, arXiv:2201.00007.
Reference code: https://github.com/Rorozhl/CA-MKD@acc8c2b1 distiller_zoo/CAMKD.py, helper/loops.py,
models/util.py

    L = w_ce CE(z, y) + alpha tau^2 mean_i sum_m w_im KL( softmax(v_im / tau) ||
    softmax(z_i / tau) ) + beta mean_i sum_m u_im mean ( E_m(f_s) - f_t,m )^2
    w_m = ( 1 - softmax over m of CE(v_m, y) ) / (M - 1),   u_m the same of CE(h_m(E_m(f_s)), y)

f_s and f_t,m are the last maps of the student and of teacher m, h_m the teacher's last layer on
their average, E_m a 1x1 convolution with batch norm and ReLU to the teacher's channels, trained and
thrown away. So a teacher's features count as far as its last layer can read the student's. Where a
head does not read an average of maps, the vectors that feed the heads take the place of the maps.
The weights of the recipe's teachers (teacher.weight) have no place here and are refused. alpha 1,
beta 50 and tau 4 are the code's for CIFAR-100, of three teachers.

Differs from the paper: nothing is known to. Differs from the code: it divides both terms by M
besides, and leaves the third one out of the first epoch.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup, Taps
from kdcli.core.types import Batch, Output, Progress, Step
from kdcli.losses._inputs import precise
from kdcli.modules.reused_head import bridge

FAMILY = "feature"


class Options(MethodOptions):
    """Options of CA-MKD."""

    alpha: float = Field(1.0, ge=0, description="Weight of the teachers' probabilities.")
    beta: float = Field(50.0, ge=0, description="Weight of their features.")
    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of all sides.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")


class ConfidentTeachers(Method):
    """Trains the student on labels and on several teachers, as far as each is to be trusted."""

    options: Options
    teachers = Arity(2, 16)
    asks_each = True
    consumes = "last map, teacher logits and head"
    trains = "student, a connector for each teacher"
    mixes = False  # it reads labels itself
    labels_for = "teachers are weighted by how well they know the label"

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.bridges = [bridge(self.student, each.network) for each in self.teacher_nets]
        ours, theirs = (tuple(dict.fromkeys(side)) for side in zip(*self.bridges, strict=True))
        self.taps = Taps(ours, theirs)
        self.connectors = nn.ModuleList(
            _connector(self.student.taps[s].channels, each.network.taps[t].channels)
            for (s, t), each in zip(self.bridges, self.teacher_nets, strict=True)
        )

    def loss(self, batch: Batch, at: Progress) -> Step:
        options = self.options
        student = self.student(batch.x, self.taps.student)
        answers = [
            teacher(batch, (tap,))
            for teacher, (_, tap) in zip(self.teacher_nets, self.bridges, strict=True)
        ]
        logits = [answer.logits for answer in answers]
        z = student.logits
        soft = losses.ca_mkd(z, logits, batch.y, temperature=options.temperature)
        return Step(
            {
                "ce": options.ce_weight * losses.cross_entropy(z, batch.y),
                "kd": options.alpha * soft,
                "features": options.beta * self._features(student, answers, batch.y),
            },
            z,
        )

    def _features(self, student: Output, answers: list[Output], y: Tensor) -> Tensor:
        read, squares = [], []
        for connector, (s, t), teacher, answer in zip(
            self.connectors, self.bridges, self.teacher_nets, answers, strict=True
        ):
            ours, theirs = (
                x if x.ndim == 4 else x[:, :, None, None] for x in (student.taps[s], answer.taps[t])
            )
            ours, theirs = losses.same_size(ours, theirs)
            made = precise(connector(ours))
            read.append(teacher.network.classify(made.mean((2, 3))))
            squares.append((made - precise(theirs)).square().mean((1, 2, 3)))
        weights = losses.confidence_weights(read, y)
        return (weights * torch.stack(squares)).sum(0).mean()


def _connector(channels: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, wanted, kernel_size=1), nn.BatchNorm2d(wanted), nn.ReLU(inplace=True)
    )
