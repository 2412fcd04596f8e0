"""Teacher-free distillation: a virtual teacher that is always right, or an earlier copy of the
student

Paper: L. Yuan, F. E. H. Tay, G. Li, T. Wang, J. Feng, Revisiting knowledge distillation via label
smoothing regularization, CVPR 2020, arXiv:1909.11723.
Reference code: https://github.com/yuanli2333/Teacher-free-Knowledge-Distillation@880a74ec
my_loss_function.py

    mode "reg":   L = (1 - a) CE(z, y) + a m tau^2 mean_i KL( u_i^tau || softmax(z_i / tau) )
    mode "self":  L = (1 - a) CE(z, y) + a m tau^2 mean_i KL( softmax(v_i / tau) || softmax(z_i /
    tau) )

u gives 0.99 to the label and the same to all other classes; u^tau is u^(1 / tau), normalised. v are
the logits of a network of the student's own architecture, trained on labels before: the teacher
that mode "self" is given. Mode "reg" listens to none: a teacher that is given all the same is only
what the gap is measured to.

form "code" reproduces the released numbers. Its "reg" is a / K m mean_i KL( softmax(u_i / tau) ||
softmax(z_i) ), a softmax of probabilities and so almost uniform, against a student that is not
tempered; its "self" has 1 / K too, for it averages over classes as well as images. With that form
on CIFAR-100 "reg" had a 0.1, tau 20, m 100 for ResNet18, 0.95, 40, 1 for MobileNetV2, 0.95, 10, 1
for ShuffleNetV2, 0.1, 40, 50 for GoogLeNet; "self" had 0.95, 20, 1 for MobileNetV2 and
ShuffleNetV2, 0.95, 6, 50 for ResNet18, 0.9, 20, 50 for DenseNet121, 0.9, 20, 100 for ResNeXt29.

Differs from the paper: tau^2, which keeps gradients alike at all temperatures, and m, which is 1 in
the paper.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.taps import name_of
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import Incompatible

FAMILY = "self"


class Options(MethodOptions):
    """Options of teacher-free distillation."""

    mode: Literal["reg", "self"] = Field(
        "reg",
        description="A virtual teacher, or the given teacher: the student's own architecture.",
    )
    form: Literal["paper", "code"] = Field(
        "paper", description="The paper's formula, or the released code's."
    )
    weight: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share a of the distillation term; the cross-entropy has the rest.",
    )
    temperature: float = Field(20.0, gt=0, description="Softmax temperature tau.")
    label_probability: float = Field(
        0.99, gt=0, lt=1, description="What the virtual teacher gives to the label."
    )
    multiplier: float = Field(
        1.0, gt=0, description="Factor m of the distillation term beside its weight."
    )


class TeacherFree(Method):
    """Trains the student on labels and on a teacher that cost nothing, or nothing more than the
    student.
    """

    options: Options
    teachers = Arity(0, 1)
    consumes = "labels, or logits of an earlier copy"
    mixes = False  # it reads labels itself
    labels_for = "its virtual teacher is made of the label"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        if options.mode == "self":
            _need_own_kind(setup)

    @classmethod
    def needs_labels(cls, options: Options) -> str:  # type: ignore[override]  # its own options
        return cls.labels_for if options.mode == "reg" else ""

    def loss(self, batch: Batch, at: Progress) -> Step:
        z, options = self.student(batch.x).logits, self.options
        ce = (1 - options.weight) * losses.cross_entropy(z, batch.y)
        return Step({"ce": ce, "kd": options.weight * options.multiplier * self._soft(z, batch)}, z)

    def _soft(self, z: Tensor, batch: Batch) -> Tensor:
        options = self.options
        if options.mode == "reg":
            tau, share = options.temperature, options.label_probability
            return losses.tf_kd(
                z, batch.y, temperature=tau, label_probability=share, form=options.form
            )
        soft = losses.kd(z, self.teacher(batch).logits, temperature=options.temperature)
        return soft / z.shape[-1] if options.form == "code" else soft


def _need_own_kind(setup: Setup) -> None:
    """Refuses mode "self" without a teacher, or with one of another architecture."""
    if not setup.teachers:
        raise Incompatible(
            'tf_kd in mode "self" needs a teacher: a checkpoint of the same network, trained '
            "on labels",
            hint='--teacher RUN of the same architecture, or method.mode = "reg"',
        )
    teacher = setup.teachers[0].network
    shapes, others = (
        {key: value.shape for key, value in net.state_dict().items()}
        for net in (setup.student, teacher)
    )
    if shapes != others:
        raise Incompatible(
            'tf_kd in mode "self" needs a teacher of the student\'s own architecture, '
            f"{name_of(setup.student)}; its teacher is a {name_of(teacher)}",
            hint=f"--student {name_of(teacher)}, or --method kd, which takes any teacher",
        )
