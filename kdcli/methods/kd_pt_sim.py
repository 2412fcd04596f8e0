"""Partial distillation, KD-pt+sim: the teacher's confidence mixed with its likeness of classes

Paper: J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, Understanding and
improving knowledge distillation, arXiv:2002.03532, section 4.
Reference code: none published.

    rho = (1 - a) rho_pt + a rho_sim,   of kd_pt and kd_sim
    L = (1 - w) CE(z, y) + w tau^2 mean_i KL(rho_i || p_i)

p is the softmax of the student at temperature tau. It holds both effects of distillation, the
gradient rescaled by the difficulty of the image and the relations of classes, and shows how much of
plain distillation they make up.

The paper tunes its options to values that are not known here; worth a search are a of 0.3, 0.5 and
0.7, the rest as for kd_sim.

Differs from the paper: KL instead of the cross-entropy with soft targets, which has the same
gradient and comparable values; the sign of a cosine is kept under the power.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.types import Batch, Progress, Step
from kdcli.methods._partial import similarity_table, step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of KD-pt+sim."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of both sides.")
    weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of the distillation term; the cross-entropy has the rest.",
    )
    mix: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share a of the similarities in the target; the confidence has the rest.",
    )
    sim_temperature: float = Field(
        0.3,
        gt=0,
        description="Temperature tau_sim of the similarities; smaller: more for the label.",
    )
    power: float = Field(
        1.0, gt=0, description="Power of the cosines; larger: small similarities count less."
    )


class PartialConfidenceSimilarity(Method):
    """Trains the student on labels, on the teacher's probability of the label and on its
    similarities of classes.
    """

    options: Options
    teachers = Arity(1, 1)
    consumes = "teacher logits, weights of its last layer"
    mixes = False  # it reads labels itself
    labels_for = "its target is made of the label"
    table: Tensor

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.register_buffer("table", similarity_table(self.teacher, options), persistent=False)

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        confidence, mix = (
            losses.kd_pt(v, batch.y, temperature=self.options.temperature),
            self.options.mix,
        )
        return step(z, batch.y, (1 - mix) * confidence + mix * self.table[batch.y], self.options)
