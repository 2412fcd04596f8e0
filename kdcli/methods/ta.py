"""Teacher assistants: bridge a large gap in size by networks in between, one after another

Paper: S. I. Mirzadeh, M. Farajtabar, A. Li, N. Levine, A. Matsukawa, H. Ghasemzadeh, Improved
knowledge distillation via teacher assistant, AAAI 2020, arXiv:1902.03393.
Reference code: https://github.com/imirzadeh/Teacher-Assistant-Knowledge-Distillation@7d4739d0
train.py

    A_0 = teacher, A_n+1 = student, and for i = 1 .. n+1, with A_i-1 frozen:
    L_i = w_ce CE(z_i, y) + w tau^2 mean KL( softmax(z_i-1 / tau) || softmax(z_i / tau) )

One stage for each assistant and one for the student. Without names for the assistants it is the one
of the teacher's family whose number of parameters is nearest the geometric mean of teacher's and
student's. The paper searches weight and temperature for each link; here one pair of values, those
of the CIFAR tables, holds for all.

Differs from the paper: an assistant teaches as its last epoch left it, not as the epoch that was
best on the test set. KL is summed over classes; the released code averages over them too, so a
weight there is worth K times less.
"""

from __future__ import annotations

from kdcli import losses
from kdcli.core.method import Arity
from kdcli.core.options import ChainOptions
from kdcli.core.types import Batch, Progress, Step
from kdcli.methods._assistant_chain import ChainMethod

FAMILY = "chain"


class Options(ChainOptions):
    """Options of teacher assistants."""


class TeacherAssistants(ChainMethod):
    """Trains each assistant from the network before it, and the student from the last assistant."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    trains = "assistants, then student"
    cacheable = True

    def link(self, position: int, batch: Batch, at: Progress) -> Step:
        z = self.learner(position)(batch.x).logits
        soft = losses.kd(z, self.answer(position, batch), temperature=self.options.temperature)
        return Step(
            {
                "ce": self.ce_weight() * losses.cross_entropy(z, batch.y),
                "kd": self.options.weight * soft,
            },
            z,
        )
