"""Label smoothing: labels that leave a little for every class

Paper: C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, Rethinking the inception
architecture for computer vision, CVPR 2016, arXiv:1512.00567, section 7.
Reference code: torch.nn.functional.cross_entropy for "uniform";
https://github.com/yuanli2333/Teacher-free-Knowledge-Distillation@880a74ec my_loss_function.py for
"others".

    L = - mean_i sum_k t_ik log softmax(z_i)_k
    form "uniform":  t = (1 - a) onehot(y) + a / K
    form "others":   t = 1 - a for the label, a / (K - 1) for every other class

It is distillation from a teacher that knows nothing: at temperature 1, with weight a, a uniform
teacher gives the same gradient.

Differs from the paper: nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "baseline"


class Options(MethodOptions):
    """Options of label smoothing."""

    smoothing: float = Field(
        0.1, ge=0, le=1, description="Probability a that is taken from the label."
    )
    form: Literal["uniform", "others"] = Field(
        "uniform", description="Who gets it: all classes, or all but the label's."
    )


class LabelSmoothing(Method):
    """Trains the student on smoothed labels."""

    options: Options
    teachers = Arity(0, 0)
    consumes = "labels"
    labels_for = "labels are all that it learns from"
    one_part = "labels are all that it learns from"

    def loss(self, batch: Batch, at: Progress) -> Step:
        z = self.student(batch.x).logits
        ce = losses.label_smoothing(
            z, batch.y, smoothing=self.options.smoothing, form=self.options.form
        )
        return Step({"ce": ce}, z)
