"""The base of every options class. Apart from the methods' base, because options are read without importing torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Options of one method, model family or dataset family: frozen, and unknown keys are errors.

    A subclass is executed alone by `kdcli.catalog`, so its body may use pydantic, typing and literals, nothing else of
    its module. Field descriptions become the lines of `kd methods NAME`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)
