"""What a recipe's teacher calls its classes, before any data are open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kdcli import catalog
from kdcli.recipe.schema import DistillRecipe, Recipe, TeacherSection
from kdcli.results.weights_header import read_header


def teachers_class_names(
    recipe: Recipe, checkpoint_of: Callable[[TeacherSection], Path]
) -> Sequence[str]:
    """The names that the first teacher has for its classes; none where there is no teacher, where
    only loading it would tell, or where a class map makes others of them.

    Args:
        checkpoint_of: as for `kdcli.jobs.build.job.build_job`.

    Raises:
        KdError: its file cannot be read.
    """
    first = recipe.teacher[:1] if isinstance(recipe, DistillRecipe) else ()
    if not first or first[0].classes is not None or first[0].logits is not None:
        return ()
    (section,) = first
    if section.name is None:
        path = section.checkpoint if section.checkpoint is not None else checkpoint_of(section)
        return read_header(path)[1].class_names
    found = catalog.entry("model", section.name)
    module = catalog.load(found) if found.factory is None else None
    weights = section.weights or getattr(module, "OWN_WEIGHTS", None)
    if module is None or weights is None:
        return ()
    names: Sequence[str] = module.categories(section.name, weights)
    return names
