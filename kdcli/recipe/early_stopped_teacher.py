"""A teacher that stops early: its recipe's length and schedule changed, as [teacher] asks. No
torch.
"""

from __future__ import annotations

from typing import Any, Literal

from kdcli.errors import UsageError
from kdcli.recipe.schema import CosineSection, MultistepSection, Recipe

Stretch = Literal["scaled", "truncated"]


def shortened(recipe: Recipe, epochs: int, schedule: Stretch) -> dict[str, Any]:
    """The values that change in a recipe that trains for another number of epochs, by dotted key.

        scaled      milestones and warm-up in proportion; a cosine ends with the training. The rate
                    is annealed, as in Cho, Hariharan, On the efficacy of knowledge distillation,
                    ICCV 2019
        truncated   every rate is that of the full length, and the end is cut off: the weights are
                    those of the full training's checkpoint after so many epochs

    Args:
        recipe: the teacher's, with its own length.
        epochs: how long to train instead.

    Raises:
        UsageError: truncated, and epochs is more than the recipe's.
    """
    full = recipe.train.epochs
    values: dict[str, Any] = {"train.epochs": epochs}
    if schedule == "truncated":
        if epochs > full:
            raise UsageError(
                f"teacher.epochs is {epochs}, and the teacher's recipe trains for {full}: "
                "nothing can be cut off",
                hint='teacher.schedule = "scaled", or fewer epochs',
            )
        if isinstance(recipe.schedule, CosineSection) and recipe.schedule.epochs is None:
            values["schedule.epochs"] = full
        return values
    if isinstance(recipe.schedule, MultistepSection):
        values["schedule.milestones"] = [
            max(1, round(milestone * epochs / full)) for milestone in recipe.schedule.milestones
        ]
    if isinstance(recipe.schedule, CosineSection) and recipe.schedule.epochs is not None:
        values["schedule.epochs"] = max(1, round(recipe.schedule.epochs * epochs / full))
    if recipe.schedule.warmup_epochs:
        values["schedule.warmup_epochs"] = recipe.schedule.warmup_epochs * epochs / full
    return values
