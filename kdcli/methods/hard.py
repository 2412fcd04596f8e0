"""Hard distillation: the teacher's most probable class as a second label

Paper: H. Touvron, M. Cord, M. Douze, F. Massa, A. Sablayrolles, H. Jegou, Training data-efficient
image transformers and distillation through attention, ICML 2021, arXiv:2012.12877, equation 3.
Reference code: https://github.com/facebookresearch/deit@ae4dba9b losses.py

    L = (1 - w) CE(z, y) + w mean_i CE(z_i, argmax_k v_ik)

It has no temperature and no scale: whoever knows only which class the teacher names can teach with
it. As the teacher sees the picture as it was cropped, its label can be the better one. With w 1 the
data's labels count for nothing. smoothing takes a part from the teacher's label and shares it among
all classes, which the paper mentions and does with 0.1.

Differs from the paper: both terms read the same logits. Its transformers have a second head, on a
token of its own, for the second term.
"""

from __future__ import annotations

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of hard distillation."""

    weight: float = Field(
        0.5, ge=0, le=1, description="Share of the teacher's label; the data's own has the rest."
    )
    smoothing: float = Field(
        0.0, ge=0, le=1, description="Probability that is taken from the teacher's label."
    )


class HardDistillation(Method):
    """Trains the student on labels and on the classes that the teacher names."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher's class"
    cacheable = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        weight = self.options.weight
        z, v = self.student(batch.x).logits, self.teacher(batch).logits
        hard = losses.hard(z, v, smoothing=self.options.smoothing)
        ce = losses.cross_entropy(z, batch.y)
        return Step({"ce": (1 - weight) * ce, "hard": weight * hard}, z)
