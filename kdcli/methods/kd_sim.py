"""Partial distillation, KD-sim: only how alike the teacher's last layer makes the classes

Paper: J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, Understanding and
improving knowledge distillation, arXiv:2002.03532, section 4 and 7.2.
Reference code: none published.

    rho = softmax( sign(c) |c|^power / tau_sim ),   c_k = cos(w_t, w_k)
    L = (1 - w) CE(z, y) + w tau^2 mean_i KL(rho_i || p_i)

p is the softmax of the student at temperature tau, w_k are the rows of the teacher's last layer, t
is the label. What is left of distillation is how classes relate; nothing is said of the image. The
teacher's weights are read once, and the teacher never answers: a step costs what it costs without a
teacher.

The paper tunes its options to values that are not known here; worth a search are tau_sim of 0.1,
0.3, 0.5 and 1 and a power of 0.5, 1, 2 and 3. The defaults of w and tau are those of kd.

Differs from the paper: KL instead of the cross-entropy with soft targets, which has the same
gradient and comparable values; the sign of a cosine is kept under the power, of which the paper
says nothing. The bias of the layer is not used.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.types import Batch, Progress, Step
from kdcli.methods._partial import similarity_table, step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of KD-sim."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of the student.")
    weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of the distillation term; the cross-entropy has the rest.",
    )
    sim_temperature: float = Field(
        0.3,
        gt=0,
        description="Temperature tau_sim of the similarities; smaller: more for the label.",
    )
    power: float = Field(
        1.0, gt=0, description="Power of the cosines; larger: small similarities count less."
    )


class PartialSimilarity(Method):
    """Trains the student on labels and on the similarities between the rows of the teacher's last
    layer.
    """

    options: Options
    teachers = Arity(1, 1)
    consumes = "weights of the teacher's last layer"
    mixes = False  # it reads labels itself
    labels_for = "its target is made of the label"
    table: Tensor

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self.register_buffer("table", similarity_table(self.teacher, options), persistent=False)

    def loss(self, batch: Batch, at: Progress) -> Step:
        return step(self.student(batch.x).logits, batch.y, self.table[batch.y], self.options)
