"""Partial distillation, KD-rel: a known hierarchy of classes in place of a teacher

Paper: J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, Understanding and
improving knowledge distillation, arXiv:2002.03532, section 8, equation 5.
Reference code: none published.

    rho_k = b1 for k = t,   b2 for the n siblings of t,   b3 for the others,
        b1 + n b2 + (K - 1 - n) b3 = 1
    L = (1 - w) CE(z, y) + w tau^2 mean_i KL(rho_i || p_i)

p is the softmax of the student at temperature tau, t the label; siblings are the other classes of
its superclass. b1 > b2 > b3: label smoothing that favours relatives. There is no teacher, so none
is taken: report.reference measures the gap to a network. Superclasses are the dataset's (CIFAR-100
has twenty, the synthetic data have them) unless `superclasses` gives them.

The paper tunes its options to values that are not known here. The defaults of w and tau are those
of kd.

Differs from the paper: KL instead of the cross-entropy with soft targets, which has the same
gradient and comparable values; b1 and the ratio b2 / b3 are the options, so that superclasses of
different sizes have one rule.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.types import Batch, DataInfo, Progress, Step
from kdcli.methods._partial import relation_table, step, superclass_of

FAMILY = "logit"


class Options(MethodOptions):
    """Options of KD-rel."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of the student.")
    weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of the distillation term; the cross-entropy has the rest.",
    )
    label_probability: float = Field(0.6, gt=0, lt=1, description="What the label gets, b1.")
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


class PartialRelation(Method):
    """Trains the student on labels and on which classes are siblings."""

    options: Options
    teachers = Arity(0, 0)
    consumes = "labels, superclasses"
    mixes = False  # it reads labels itself
    labels_for = "its target is made of the label"
    table: Tensor

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.register_buffer(
            "table", relation_table("kd_rel", setup.data, options), persistent=False
        )

    @classmethod
    def superclass(cls, options: MethodOptions, data: DataInfo) -> Tensor | None:
        assert isinstance(options, Options)
        return superclass_of("kd_rel", data, options.superclasses)

    def loss(self, batch: Batch, at: Progress) -> Step:
        return step(self.student(batch.x).logits, batch.y, self.table[batch.y], self.options)
