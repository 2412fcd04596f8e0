"""DeiT: a token of its own learns from the teacher, the class token beside it from labels

Paper: H. Touvron, M. Cord, M. Douze, F. Massa, A. Sablayrolles, H. Jegou, Training data-efficient
image transformers and distillation through attention, ICML 2021, arXiv:2012.12877.
Reference code: https://github.com/facebookresearch/deit@ae4dba9b losses.py

    hard:  L = (1 - w) CE(z_c, y-smooth) + w CE(z_d, argmax_k v_k)
    soft:  L = (1 - w) CE(z_c, y-smooth) + w tau^2 mean_i KL( softmax(v_i / tau) ||
    softmax(z_d,i / tau) )

z_c and z_d are the logits of the class token and of the distillation token, each by a head of its
own; what is measured and deployed answers their mean. Labels are smoothed by `smoothing`, the
teacher's are not. The student is a vision transformer with a distillation token: vit-mini and
vit-lite with student.distillation_token = true, and those of timm with two heads, such as
timm/deit_tiny_distilled_patch16_224.

hard with w = 1/2 is the paper's; for soft it gives w = 0.1 and tau = 3, the defaults there.

Differs from the paper: nothing is known to, but that the two heads' biases are held as their mean
and half their difference, of which the latter is thrown away, and their weights halved in one layer
(kdcli.modules.token_heads): under plain SGD that layer's steps are those of twice to four times the
rate, under Adam of twice. Differs from the code: it averages the soft divergence over the classes
as well, which makes it 1/K of this one.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup
from kdcli.core.taps import name_of
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import Incompatible
from kdcli.methods._checks import need_tokens
from kdcli.modules.token_heads import TokenHeads

FAMILY = "logit"

_HARD_WEIGHT, _SOFT_WEIGHT, _SOFT_TEMPERATURE = 0.5, 0.1, 3.0


class Options(MethodOptions):
    """Options of DeiT."""

    kind: Literal["hard", "soft"] = Field(
        "hard",
        description="The teacher's most probable class as a label, or its softened probabilities.",
    )
    weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share w of what the distillation token learns; 0.5, soft 0.1, unless given.",
    )
    temperature: float | None = Field(
        None, gt=0, description='Softmax temperature tau, for kind "soft"; 3 unless given.'
    )
    smoothing: float = Field(
        0.1, ge=0, le=1, description="What is taken from a label and shared among all classes."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "hard" and self.temperature is not None:
            raise ValueError(
                'kind "hard" takes the class of the teacher, and temperature would do nothing: '
                'leave it out, or take kind "soft"'
            )
        return self


class DistillationToken(Method):
    """Trains a vision transformer, one token on labels and one on the teacher."""

    options: Options
    teachers = Arity(1, None)
    student_taps = ("pooled",)
    consumes = "teacher logits"
    trains = "student, with a distillation token"
    cacheable = True

    def __init__(self, options: Options, setup: Setup) -> None:
        if setup.student.distilled is None:
            need_tokens("deit", setup.student)
            raise Incompatible(
                f"deit trains a distillation token, and {name_of(setup.student)} was built without",
                hint=(
                    "student.distillation_token = true with vit-mini or vit-lite; of timm a "
                    "network with two heads, such as timm/deit_tiny_distilled_patch16_224"
                ),
            )
        super().__init__(options, setup)
        self.heads = TokenHeads(setup.data.num_classes)

    @classmethod
    def softening(cls, options: MethodOptions) -> float:
        assert isinstance(options, Options)
        return (options.temperature or _SOFT_TEMPERATURE) if options.kind == "soft" else 1.0

    def loss(self, batch: Batch, at: Progress) -> Step:
        options, soft = self.options, self.options.kind == "soft"
        mean, taps = self.student(batch.x, ("pooled",))
        z_c, z_d = self.heads(self.student, taps["pooled"])
        v = self.teacher(batch).logits
        weight = options.weight
        if weight is None:
            weight = _SOFT_WEIGHT if soft else _HARD_WEIGHT
        ce = losses.label_smoothing(z_c, batch.y, smoothing=options.smoothing)
        learnt = (
            losses.kd(z_d, v, temperature=self.softening(options)) if soft else losses.hard(z_d, v)
        )
        return Step({"ce": (1 - weight) * ce, options.kind: weight * learnt}, mean)
