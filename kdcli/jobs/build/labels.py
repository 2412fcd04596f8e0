"""Pictures without labels: what can be done with them, and what cannot."""

from __future__ import annotations

from kdcli import formatting
from kdcli.core.types import DataInfo
from kdcli.errors import Incompatible
from kdcli.jobs.build.method import method_class
from kdcli.recipe.schema import DistillRecipe, GatesSection, Recipe

# gates on what only labels tell, with what it is
_OF_LABELS = {
    "min_accuracy": "accuracy",
    "min_balanced_accuracy": "accuracy",
    "min_macro_f1": "F1",
    "min_class_accuracy": "accuracy",
    "within": "accuracy",
    "not_below": "accuracy",
    "max_ece": "calibration",
}


def check_gates_of_labels(gates: GatesSection, part: str) -> None:
    """Refuses gates on what only labels tell. part: what has none, for the message.

    Raises:
        Incompatible: the first of them, and that others exist.
    """
    for name, what in _OF_LABELS.items():
        if getattr(gates, name) is not None:
            raise Incompatible(
                f"gates.{name} is a threshold on {what}, and the {part} have no labels to measure "
                "it by",
                hint="gates.min_agreement asks how far the student answers as its teacher does, "
                "gates.max_entropy_gap how sure it is beside it",
            )


def check_labels(recipe: Recipe, info: DataInfo) -> None:
    """Refuses a recipe that needs labels which its pictures do not have.

    Raises:
        Incompatible: what needs them, and for what.
    """
    if "test" in info.bare:
        check_gates_of_labels(recipe.gates, "test images")
    if "val" in info.bare and recipe.train.calibrate == "on":
        raise Incompatible(
            "train.calibrate fits a temperature to held-out labels, and the held-out images have "
            "none",
            hint='train.calibrate = "off"',
        )
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
