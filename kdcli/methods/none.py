"""Cross-entropy alone: the student without a teacher, and how teachers are trained

Paper: none. This is the baseline that every distillation result is measured against.
Reference code: none.

    L = CE(z, y) = - mean_i log softmax(z_i)_{y_i}

Differs from the paper: nothing.
"""

from __future__ import annotations

from kdcli.core.method import Arity, Method
from kdcli.core.types import Batch, Progress, Step
from kdcli.losses import cross_entropy

FAMILY = "baseline"


class NoDistillation(Method):
    """Trains the student on the labels."""

    teachers = Arity(0, 0)
    consumes = "labels"
    labels_for = "labels are all that it learns from"
    one_part = "labels are all that it learns from"

    def loss(self, batch: Batch, at: Progress) -> Step:
        z = self.student(batch.x).logits
        return Step({"ce": cross_entropy(z, batch.y)}, z)
