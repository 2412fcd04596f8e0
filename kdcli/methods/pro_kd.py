"""Progressive distillation: the student follows the teacher's checkpoints in the order in which the
teacher reached them

Paper: M. Rezagholizadeh, A. Jafari, P. Salad, P. Sharma, A. S. Pasand, A. Ghodsi, Pro-KD:
progressive distillation by following the footsteps of the teacher, COLING 2022, arXiv:2110.08532.
Reference code: none.

    phase 1, for j = 1 .. n, v_j the logits of checkpoint j:
    mse     L = w_ce CE(z, y) + w mean_N,K ( z - phi_j v_j )^2,   phi_j = j / n
    kl      L = w_ce CE(z, y) + w tau_j^2 mean KL( softmax(v_j / tau_j) || softmax(z / tau_j) ),
            tau_j from max_temperature down to 1
    phase 2 L = CE(z, y)

The checkpoints are what train.keep_every kept along the teacher's training, and the teacher itself
is the last of them. They share the epochs of phase 1 equally, or have epochs_per_checkpoint each;
the last epoch always follows the teacher itself. A checkpoint is loaded when its turn comes: one at
a time is in memory, beside the teacher. The second phase starts the schedule of learning rates
again: with milestones that lie far away, give final_lr.

Differs from the paper: it gives no constants that could be read; phi is linear as in annealing
distillation, on which it builds. The paper trains phase 1 without labels (ce_weight = 0, the
default).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions, Setup, Stage
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Progress, Step
from kdcli.errors import Incompatible

FAMILY = "chain"
_FOLLOW = "follow"


class Options(MethodOptions):
    """Options of progressive distillation."""

    checkpoints: tuple[str, ...] = Field(
        (),
        description=(
            "Checkpoints of the teacher before the last, in the order of its training; those "
            "that its run kept unless given."
        ),
    )
    epochs_per_checkpoint: int | None = Field(
        None,
        ge=1,
        description="Epochs that each one teaches; equal shares of train.epochs unless given.",
    )
    loss: Literal["mse", "kl"] = Field(
        "mse",
        description=(
            "On logits that grow to the teacher's, or on softmaxes that sharpen to its own."
        ),
    )
    max_temperature: float = Field(
        10.0, ge=1, description="Temperature under the first checkpoint, where loss is kl."
    )
    weight: float = Field(1.0, ge=0, description="Weight of the distillation term.")
    ce_weight: float = Field(0.0, ge=0, description="Weight of the cross-entropy beside it.")
    final_ce_epochs: int = Field(10, ge=0, description="Epochs on labels alone, after those.")
    final_lr: float | None = Field(
        None, gt=0, description="Learning rate of that phase; optim.lr unless given."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.loss != "kl" and self.max_temperature != 10.0:
            raise ValueError(
                'loss "mse" has no temperature, and max_temperature would do nothing: leave it '
                'out, or take loss "kl"'
            )
        return self


class ProgressiveDistillation(Method):
    """Trains the student under one checkpoint of the teacher after another, then on labels."""

    options: Options
    teachers = Arity(1, 1)
    consumes = "teacher logits, along its training"
    follows_history = True

    def __init__(self, options: Options, setup: Setup) -> None:
        super().__init__(options, setup)
        self._load = setup.load
        self._earlier = options.checkpoints or setup.history[:-1]
        self._loaded: tuple[int, Teacher] | None = None
        _check_order(self._earlier, setup)

    def stages(self) -> list[Stage]:
        options = self.options
        each = options.epochs_per_checkpoint
        stages = [
            Stage(
                _FOLLOW, (self.student,), self._follow, None if each is None else each * self._count
            )
        ]
        if options.final_ce_epochs:
            rate = {} if options.final_lr is None else {"lr": options.final_lr}
            stages.append(
                Stage("labels", (self.student,), self._labels, options.final_ce_epochs, rate)
            )
        return stages

    def on_epoch(self, at: Progress) -> None:
        place = self.place(at) if at.stage == _FOLLOW else self._count - 1
        if place == self._count - 1:
            self._loaded = None
        elif self._loaded is None or self._loaded[0] != place:
            self._loaded = place, self._load(self._earlier[place])

    def place(self, at: Progress) -> int:
        """Number from 0 of the checkpoint that teaches in an epoch; the last one is the teacher."""
        return -(-at.epoch * self._count // at.epochs) - 1

    @property
    def _count(self) -> int:
        return len(self._earlier) + 1

    def _follow(self, batch: Batch, at: Progress) -> Step:
        z = self.student(batch.x).logits
        v = (self._loaded[1] if self._loaded is not None else self.teacher)(batch).logits
        terms = {"pro_kd": self.options.weight * self._distance(z, v, self.place(at) + 1)}
        if self.options.ce_weight:
            terms["ce"] = self.options.ce_weight * losses.cross_entropy(z, batch.y)
        return Step(terms, z)

    def _distance(self, z: Tensor, v: Tensor, number: int) -> Tensor:
        """Distance to the logits of checkpoint `number`, from 1."""
        if self.options.loss == "mse":
            return losses.logit_mse(z, v, share=number / self._count)
        left = (self._count - number) / max(self._count - 1, 1)
        return losses.kd(z, v, temperature=1 + (self.options.max_temperature - 1) * left)

    def _labels(self, batch: Batch, at: Progress) -> Step:
        z = self.student(batch.x).logits
        return Step({"ce": losses.cross_entropy(z, batch.y)}, z)


def _check_order(earlier: tuple[str, ...], setup: Setup) -> None:
    """Loads each checkpoint once, before anything is trained: one that does not fit is refused now.

    Raises:
        Incompatible: there are none, or one was trained for longer than the next; both are named.
    """
    if not earlier:
        raise Incompatible(
            "pro_kd follows the checkpoints along its teacher's training, and this teacher's "
            "run kept none",
            hint="train the teacher with -s train.keep_every=10, or list them: method.checkpoints",
        )
    epochs = [
        *((path, setup.load(path).epoch) for path in earlier),
        ("the teacher itself", setup.teachers[0].epoch),
    ]
    known = [(path, epoch) for path, epoch in epochs if epoch is not None]
    for (path, epoch), (following, next_epoch) in pairwise(known):
        if next_epoch < epoch:
            raise Incompatible(
                f"pro_kd: {path} had {epoch} epochs of training, and {following}, which "
                f"comes after it, had {next_epoch}",
                hint="method.checkpoints lists them in the order of the teacher's training",
            )
