"""What `kd search` tries: networks, methods, temperatures and learning rates, over one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli import catalog, tasks
from kdcli.errors import UsageError
from kdcli.recipe.resolve import Flag, Resolved, resolve
from kdcli.recipe.schema import DistillRecipe
from kdcli.results.search import Trial

METHODS = ("kd", "skd", "dkd", "dist")  # that need logits alone, and so any pair of networks
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
RATES = 4.0  # times the recipe's learning rate, and a fourth of it: where rates are looked for
HELD_OUT = 0.1  # of the training images, where the recipe does not say

_FIXED = ("--set", "--")  # how the origins of what was said on the command line begin


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched. patterns: names and patterns of networks; without any, the zoo's. rate:
    the middle of the learning rates, None where one was given. fixed: networks and methods that
    the command line names are the only ones of theirs.
    """

    patterns: tuple[str, ...]
    methods: tuple[str, ...]
    temperatures: tuple[float, ...]
    rate: float | None


@dataclass(frozen=True, slots=True)
class Base:
    """The recipe that all trials share, and how to make one of it. any_student: whether its own
    student is one of no trial.
    """

    file: str | Path | None
    sets: tuple[str, ...]
    flags: tuple[Flag, ...]
    environ: Mapping[str, str]
    held_out: float | None
    any_student: bool = False

    def resolve(self, values: Mapping[str, Any]) -> Resolved:
        """The recipe with some values, by dotted keys; --set and flags are above them."""
        held = {} if self.held_out is None else {"data.val_fraction": self.held_out}
        return resolve(
            "distill",
            file=self.file,
            values={**values, **held},
            sets=self.sets,
            flags=self.flags,
            environ=self.environ,
            any_student=self.any_student,
        )


def base_of(
    file: str | Path | None,
    sets: Sequence[str],
    flags: Sequence[Flag],
    environ: Mapping[str, str],
    *,
    any_student: bool = False,
) -> tuple[Base, Resolved]:
    """The recipe of a search, with images held out: a share where nobody has said otherwise.

    Raises:
        UsageError: it was said that none are, or the data are not pictures. RecipeInvalid: as
            `resolve`.
    """
    base = Base(file, tuple(sets), tuple(flags), environ, None, any_student)
    first = base.resolve({})
    data = first.recipe.data
    if not tasks.of_data(data.name).pictures:
        raise UsageError(f"kd search is for pictures, and {data.name} is text")
    if data.val_fraction or catalog.entry("dataset", data.name).facts.get("val"):
        return base, first
    if first.origins.get("data.val_fraction", "default") != "default":
        raise UsageError(
            "a search selects on held-out images, and data.val_fraction is 0",
            hint=f"-s data.val_fraction={HELD_OUT}",
        )
    base = replace(base, held_out=HELD_OUT)
    return base, base.resolve({})


def space_of(
    resolved: Resolved,
    patterns: Sequence[str],
    methods: Sequence[str],
    temperatures: Sequence[float],
) -> Space:
    """What is searched: what the command line sets is not."""
    recipe, origins = resolved.recipe, resolved.origins
    assert isinstance(recipe, DistillRecipe)

    def given(key: str) -> bool:
        return origins.get(key, "").startswith(_FIXED)

    return Space(
        tuple(patterns) or ((recipe.student.name,) if given("student.name") else ()),
        (recipe.method.name,) if given("method.name") else tuple(methods) or METHODS,
        () if given("method.temperature") else tuple(temperatures) or TEMPERATURES,
        None if given("optim.lr") else recipe.optim.lr,
    )


def check_methods(space: Space) -> None:
    """Refuses a method that is none, or that no teacher teaches.

    Raises:
        NotFound, UsageError: of the first such.
    """
    for name in space.methods:
        most = catalog.entry("method", name).facts.get("teachers", (1, 1))[1]
        if most == 0:
            raise UsageError(
                f"{name} takes no teacher, and a search is for students of one",
                hint="kd methods lists them",
            )


def label_of(trial: Trial) -> str:
    """A trial's parameters in a few words."""
    return " ".join(
        value if isinstance(value, str) else f"{name}={value:.3g}"
        for name, value in trial.parameters.items()
    )


def is_warm(method: str) -> bool:
    """Tells whether a method has a temperature."""
    entry = catalog.entry("method", method)
    return "temperature" in catalog.options_class(entry).model_fields


def values_of(trial: Trial) -> dict[str, Any]:
    """A trial's parameters as `Base.resolve` takes them."""
    keys = {
        "student": "student.name",
        "method": "method.name",
        "temperature": "method.temperature",
        "lr": "optim.lr",
    }
    return {keys[name]: value for name, value in trial.parameters.items() if name in keys}
