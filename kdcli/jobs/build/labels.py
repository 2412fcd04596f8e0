"""Training pictures without labels: what can be done with them, and what cannot."""

from __future__ import annotations

from kdcli import formatting
from kdcli.core.types import DataInfo
from kdcli.errors import Incompatible
from kdcli.jobs.build.method import method_class
from kdcli.recipe.schema import DistillRecipe, Recipe


def check_labels(recipe: Recipe, info: DataInfo) -> None:
    """Refuses a recipe that needs labels which training pictures do not have.

    Raises:
        Incompatible: what needs them, and for what.
    """
    if not info.unlabelled:
        return
    without = formatting.plural(info.unlabelled, "training image", " ")
    has = "has" if info.unlabelled == 1 else "have"
    name, cls = recipe.method.name, method_class(recipe.method.name)
    if clause := cls.needs_labels(cls.Options(**recipe.method.options)):
        raise Incompatible(
            f"{name} needs a label of every training image ({clause}), and {without} {has} none",
            hint=(
                "--method kd learns from them what the teacher answers"
                if isinstance(recipe, DistillRecipe)
                else "leave them out: they teach a network only under a teacher (kd distill)"
            ),
        )
    if recipe.data.sampler == "balanced":
        raise Incompatible(
            f"data.sampler is balanced, and {without} {has} no label to balance by",
            hint='data.sampler = "shuffle", or leave them out',
        )
    if len(info.labelled):
        return
    if recipe.train.class_weights != "none":
        raise Incompatible(
            "train.class_weights weighs labels, and no training image has one",
            hint="leave it out",
        )
    if not (isinstance(recipe, DistillRecipe) and recipe.teacher):
        raise Incompatible(
            f"no training image has a label, and {name} has no teacher: there is nothing to learn",
            hint="--teacher RUN and a method that listens to it, such as kd",
        )
