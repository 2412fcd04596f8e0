"""Partial distillation, KD-pt: only how sure the teacher is of the label

Paper: J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, Understanding and
improving knowledge distillation, arXiv:2002.03532, section 4.
Reference code: none published.

    rho_t = q_t,   rho_k = (1 - q_t) / (K - 1) for k != t
    L = (1 - w) CE(z, y) + w tau^2 mean_i KL(rho_i || p_i)

p and q are the softmaxes of student and teacher at temperature tau, t is the label. What is left of
distillation is that it rescales the gradient of each image by how easy the teacher finds it; how
classes relate is taken away. With two classes it is plain distillation.

Defaults are those of kd, so that the target is the only difference. The paper tunes w and tau to
values that are not known here; worth a search are w from 0.1 to 0.9 and tau of 1, 2, 3, 5 and 10.

Differs from the paper: KL instead of the cross-entropy with soft targets, which has the same
gradient and comparable values.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step
from kdcli.methods._partial import step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of KD-pt."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of both sides.")
    weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of the distillation term; the cross-entropy has the rest.",
    )


class PartialConfidence(Method):
    """Trains the student on labels and on the teacher's probability of the label."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    mixes = False  # it reads labels itself
    labels_for = "its target is the teacher's confidence in the label"
    cacheable = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        return step(
            z, batch.y, losses.kd_pt(v, batch.y, temperature=self.options.temperature), self.options
        )
