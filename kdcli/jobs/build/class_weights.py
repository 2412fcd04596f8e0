"""Class weights from what a recipe says of them and from the training labels."""

from __future__ import annotations

import torch

from kdcli import formatting
from kdcli.core.class_weights import ClassWeights
from kdcli.core.types import DataInfo
from kdcli.errors import Incompatible
from kdcli.recipe.schema import Recipe


def class_weights(recipe: Recipe, info: DataInfo, device: torch.device) -> ClassWeights | None:
    """The weights that train.class_weights asks for; None where classes count alike.

    They are scaled to mean 1 over the images that an epoch shows, so that the cross-entropy keeps
    its share beside what is learned from a teacher. "balanced" is then n / (K n_k), as in
    scikit-learn.

    Raises:
        Incompatible: not one weight a class.
    """
    asked = recipe.train.class_weights
    if asked == "none":
        return None
    counts = torch.bincount(info.labelled.cpu(), minlength=info.num_classes).double()
    if asked == "balanced":
        weights = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)
    else:
        if len(asked) != info.num_classes:
            raise Incompatible(
                f"train.class_weights has {formatting.plural(len(asked), 'number', ' ')}, and "
                f"{info.name} has {formatting.plural(info.num_classes, 'class', ' ')}",
                hint="one number a class, in class order (kd check names the classes)",
            )
        weights = torch.tensor(asked, dtype=torch.float64)
    shown = (counts > 0).double() if recipe.data.sampler == "balanced" else counts
    mean = (weights * shown).sum() / shown.sum()
    return ClassWeights((weights / mean).float().to(device))


def weighed_nothing(method: str, weights: ClassWeights | None) -> tuple[str, ...]:
    """A warning where training went by without a loss that weighs classes."""
    if weights is None or weights.used or not weights.held:
        return ()
    return (
        (
            f"train.class_weights weighed nothing: the loss of {method} has no cross-entropy with "
            "labels by kdcli.losses"
        ),
    )
