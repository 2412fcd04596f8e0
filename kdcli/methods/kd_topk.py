"""Partial distillation, KD-topk: the teacher's largest probabilities, the rest shared equally

Paper: J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, Understanding and
improving knowledge distillation, arXiv:2002.03532, section 5.3.
Reference code: none published.

    rho_j = q_j for the k largest of q,   (1 - their sum) / (K - k) for the others
    L = (1 - w) CE(z, y) + w tau^2 mean_i KL(rho_i || p_i)

p and q are the softmaxes of student and teacher at temperature tau. The idea is that a few classes
are truly alike, and the probabilities of all others are noise, which a high temperature makes
large. The label has no privilege: it is kept if it is among the k. k = K is plain distillation, k =
0 label smoothing towards all classes.

Other defaults are those of kd, so that the target is the only difference. The paper tunes k to
values that are not known here; worth a search for a hundred classes are 2, 5, 10, 15, 25 and 50.

Differs from the paper: KL instead of the cross-entropy with soft targets, which has the same
gradient and comparable values.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import Incompatible
from kdcli.methods._partial import step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of KD-topk."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of both sides.")
    weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of the distillation term; the cross-entropy has the rest.",
    )
    k: int = Field(
        5,
        ge=0,
        description=(
            "How many of the teacher's probabilities are kept; the number of classes at most."
        ),
    )


class PartialLargest(Method):
    """Trains the student on labels and on the teacher's k largest probabilities."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        classes = setup.data.num_classes
        if options.k > classes:
            raise Incompatible(
                f"kd_topk keeps k = {options.k} probabilities, and {setup.data.name} has "
                f"{classes} classes",
                hint=f"method.k from 0 to {classes}; {classes} keeps all, which is kd",
            )

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        return step(
            z,
            batch.y,
            losses.kd_topk(v, k=self.options.k, temperature=self.options.temperature),
            self.options,
        )
