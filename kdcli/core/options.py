"""The base of every options class. Apart from the methods' base, because options are read without importing torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Options of one method, model family or dataset family: frozen, and unknown keys are errors.

    A subclass is executed alone by `kdcli.catalog`, so its body may use pydantic, typing, literals and the bases of this file, nothing
    else of its module. Field descriptions become the lines of `kd methods NAME`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class FeatureOptions(Options):
    """What every method on features shares: the weights of the terms that stand beside its own."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")
    kd_weight: float = Field(0.0, ge=0, description="Weight of Hinton's term on the logits beside the method's own; 0: none.")
    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of that term.")
