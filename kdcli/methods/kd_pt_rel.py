"""Partial distillation, KD-pt+rel: the teacher's confidence mixed with a known hierarchy of classes

Paper: J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, Understanding and
improving knowledge distillation, arXiv:2002.03532, section 8.
Reference code: none published.

    rho = (1 - a) rho_pt + a rho_rel,   of kd_pt and kd_rel
    L = (1 - w) CE(z, y) + w tau^2 mean_i KL(rho_i || p_i)

p is the softmax of the student at temperature tau. The teacher says how easy an image is,
superclasses say how classes relate. They are the dataset's unless `superclasses` gives them.

The paper tunes its options to values that are not known here; worth a search are a of 0.3, 0.5 and
0.7, the rest as for kd_rel.

Differs from the paper: KL instead of the cross-entropy with soft targets, which has the same
gradient and comparable values; b1 and the ratio b2 / b3 are the options of the hierarchy.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.types import Batch, DataInfo, Progress, Step
from kdcli.methods._partial import relation_table, step, superclass_of

FAMILY = "logit"


class Options(MethodOptions):
    """Options of KD-pt+rel."""

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
        description="Share a of the hierarchy in the target; the confidence has the rest.",
    )
    label_probability: float = Field(
        0.6, gt=0, lt=1, description="What the hierarchy gives to the label, b1."
    )
    ratio: float = Field(
        10.0, gt=1, description="What a sibling gets over what any other class gets, b2 / b3."
    )
    superclasses: tuple[tuple[str | int, ...], ...] | None = Field(
        None,
        description=(
            "Lists of classes, by name, or by number from 0 where none is called so, each in one "
            "of them; the dataset's own unless given."
        ),
    )


class PartialConfidenceRelation(Method):
    """Trains the student on labels, on the teacher's probability of the label and on which classes
    are siblings.
    """

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits, superclasses"
    mixes = False  # it reads labels itself
    labels_for = "its target is made of the label"
    cacheable = True
    table: Tensor

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.register_buffer(
            "table", relation_table("kd_pt_rel", setup.data, options), persistent=False
        )

    @classmethod
    def superclass(cls, options: MethodOptions, data: DataInfo) -> Tensor | None:
        assert isinstance(options, Options)
        return superclass_of("kd_pt_rel", data, options.superclasses)

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        confidence, mix = (
            losses.kd_pt(v, batch.y, temperature=self.options.temperature),
            self.options.mix,
        )
        return step(z, batch.y, (1 - mix) * confidence + mix * self.table[batch.y], self.options)
