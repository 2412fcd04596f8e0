"""What all sections of a recipe share: frozen, unknown keys are errors, and one way to say that
keys do not go together.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def rule(key: str, problem: str, hint: str | None = None) -> PydanticCustomError:
    """What a validator raises when several keys do not go together. key: the one to point at,
    relative to the section.
    """
    return PydanticCustomError(
        "rule", "{problem}", {"key": key, "problem": problem, **({"hint": hint} if hint else {})}
    )


class Section(BaseModel):
    """A table of a recipe: frozen, unknown keys are errors, NaN and infinity are not numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )
