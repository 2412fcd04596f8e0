"""The base of every options class. Apart from the methods' base, because options are read without
importing torch.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Options of one method, model family or dataset family: frozen, and unknown keys are errors.

    A subclass is executed alone by `kdcli.catalog`, so its body may use pydantic, typing, literals
    and the bases of this file, nothing else of its module. Field descriptions become the lines of
    `kd methods NAME`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class FeatureOptions(Options):
    """What every method on features shares: the weights of the terms that stand beside its own."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")
    kd_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of Hinton's term on the logits beside the method's own; 0: none.",
    )
    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of that term.")


class ChainOptions(Options):
    """What the methods share that train a chain of networks, each from larger ones: teacher,
    assistants, student.
    """

    assistants: tuple[str, ...] = Field(
        (),
        description=(
            "Networks between teacher and student, from large to small; the zoo's nearest to "
            "their geometric mean unless given."
        ),
    )
    assistant_epochs: int | None = Field(
        None, ge=1, description="Epochs for each assistant; as many as the student's unless given."
    )
    temperature: float = Field(
        4.0, gt=0, description="Softmax temperature tau of both sides, in every link."
    )
    weight: float = Field(0.9, ge=0, description="Weight of the distillation term, in every link.")
    ce_weight: float | None = Field(
        None, ge=0, description="Weight of the cross-entropy; 1 - weight, at least 0, unless given."
    )
