"""Knowledge distillation: match the teacher's softened probabilities

Paper: G. Hinton, O. Vinyals, J. Dean, Distilling the knowledge in a neural network, NeurIPS
workshop 2014, arXiv:1503.02531.
Reference code: https://github.com/HobbitLong/RepDistiller@5237c1fd distiller_zoo/KD.py;
https://github.com/megvii-research/mdistiller@e8c5bb33 mdistiller/distillers/KD.py

    L = w_ce CE(z, y) + w tau^2 mean_i KL( softmax(v_i / tau) || softmax(z_i / tau) )

Defaults are those of the CIFAR tables: tau 4, w 0.9, w_ce 0.1. Published weights mean different
things, because code bases reduce differently: reduction "mean" averages over the N K elements and
so divides by K (TAKD, DGKD, Tf-KD), and t_squared false leaves tau^2 out (the Keras example). With
these two options a published weight can be written as it was published.

kd_stop_epoch ends distillation before training ends, for a student too small to follow its teacher
to the last (J. H. Cho, B. Hariharan, On the efficacy of knowledge distillation, ICCV 2019,
arXiv:1910.01348). From then on the teacher is not asked, and the loss is the cross-entropy with
weight 1, whatever ce_weight is: that of a run without a teacher.

divergence puts another in the place of the forward KL. With p and q the softmaxes of student and
teacher at temperature tau, q is the target in all of them:

    forward:    KL(q || p)
    reverse:    KL(p || q), which lets the student leave out what it cannot follow
    symmetric:  ( KL(q || p) + KL(p || q) ) / 2
    js:         ( KL(q || m) + KL(p || m) ) / 2,  m = (p + q) / 2     (Jensen-Shannon)

https://github.com/jongwooko/distillm@17c0f98b distillm/losses.py has them at temperature 1, with
lam 1/2 for the last two; for the last see also R. Agarwal et al., On-policy distillation of
language models, ICLR 2024, arXiv:2306.13649.

Differs from the paper: the KL divergence instead of the cross-entropy with soft targets. They
differ by the teacher's entropy, so gradients are equal, and losses under different teachers become
comparable.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of knowledge distillation."""

    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of both sides.")
    weight: float = Field(0.9, ge=0, description="Weight of the distillation term.")
    ce_weight: float | None = Field(
        None, ge=0, description="Weight of the cross-entropy; 1 - weight, at least 0, unless given."
    )
    reduction: Literal["batchmean", "mean"] = Field(
        "batchmean", description="Mean over images, or over images and classes."
    )
    t_squared: bool = Field(
        default=True,
        description="Multiply by tau^2, which keeps gradients alike at all temperatures.",
    )
    divergence: Literal["forward", "reverse", "symmetric", "js"] = Field(
        "forward",
        description="What compares the two: KL from the teacher, to it, their mean, or "
        "Jensen-Shannon.",
        json_schema_extra={"no_effect": "forward"},  # finished runs keep their hash
    )
    kd_stop_epoch: int | None = Field(
        None,
        ge=1,
        description=(
            "After so many epochs plain cross-entropy, without the teacher; never unless given."
        ),
    )


class KnowledgeDistillation(Method):
    """Trains the student on labels and on the teacher's soft targets."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher logits"
    cacheable = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        z = self.student(batch.x).logits
        ce = losses.cross_entropy(z, batch.y)
        if self.options.kd_stop_epoch is not None and at.epoch > self.options.kd_stop_epoch:
            return Step({"ce": ce}, z)
        soft = losses.kd(
            z,
            self.teacher(batch).logits,
            temperature=self.options.temperature,
            divergence=self.options.divergence,
        )
        return Step({"ce": self._ce_weight * ce, "kd": self._kd_weight * soft}, z)

    @property
    def _ce_weight(self) -> float:
        given = self.options.ce_weight
        return max(1 - self.options.weight, 0.0) if given is None else given

    @property
    def _kd_weight(self) -> float:
        options = self.options
        classes = self.data.num_classes if options.reduction == "mean" else 1
        return options.weight / classes / (1.0 if options.t_squared else options.temperature**2)
