"""From a file, overrides and the environment to a recipe that is whole and valid, or to all of its
problems at once.

No torch is imported: what does not fit is refused before anything slow begins.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kdcli import formatting, trust
from kdcli.errors import Diagnostic, KdError
from kdcli.recipe import branches, shipped
from kdcli.recipe.early_stopped_teacher import Stretch, shortened
from kdcli.recipe.reading import diagnostics, extends, overrides
from kdcli.recipe.reading.diagnostics import Explainer
from kdcli.recipe.reading.layers import (
    NAMED,
    Kind,
    Layer,
    default_name,
    dotted,
    lay,
    recipe_class,
)
from kdcli.recipe.reading.overrides import Flag
from kdcli.recipe.reading.toml_file import Origin, shown_as
from kdcli.recipe.schema import LARGEST, Recipe, TeacherSection, is_bounded
from kdcli.recipe.teacher_rules import TeacherRules

__all__ = ["Flag", "Kind", "Resolved", "kind_of", "resolve", "resolve_teacher"]

QUICKSTART: Mapping[Kind, str] = {"train-teacher": "quickstart-teacher", "distill": "quickstart"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A valid recipe.

    origins: for every dotted key where its value came from: "default", "base.toml:4",
    "KD_DATA_DIR", "--set", "--epochs", "teacher's file". notes: what was chosen automatically and
    why, one sentence each. path: the file, None without one.

    own_files: the Python files that the user has named in it, or in the recipes of its teachers.
    strangers: those that somebody else has named (kdcli.trust), as far as that is known before
    anything is loaded.
    """

    recipe: Recipe
    origins: Mapping[str, str]
    notes: tuple[str, ...]
    path: Path | None
    own_files: frozenset[str] = frozenset()
    strangers: tuple[trust.Stranger, ...] = ()


def resolve(
    kind: Kind,
    *,
    file: Path | str | None = None,
    values: Mapping[str, Any] | Layer | None = None,
    sets: Sequence[str] = (),
    flags: Sequence[Flag] = (),
    environ: Mapping[str, str] = os.environ,
    spare_teachers: bool = False,
    any_student: bool = False,
    tree: trust.Folder | None = None,
) -> Resolved:
    """A valid recipe from, low to high: defaults, what the file extends, the file, KD_DATA_DIR,
    `values`, --set, flags.

    Args:
        kind: whose recipe it is.
        file: a path, or the name of a shipped recipe. Without one and without a teacher, the
            shipped quickstart.
        values: dotted keys with values, for notebooks; or a layer that knows where each came from,
            for sweeps.
        sets: KEY=VALUE, as --set takes them.
        flags: named options.
        environ: where KD_DATA_DIR is looked up.
        spare_teachers: a method that takes no teacher ignores those of the recipe, instead of
            refusing them.
        any_student: as for `TeacherRules.fill_in`.
        tree: where recipes are the user's; the folder of the file, which the user named, unless
            given.

    Raises:
        RecipeInvalid: with every problem that can be told without loading data or weights, each at
            its place.
        NotFound, BadCheckpoint, Incompatible: the only problem is the file, the teacher's file, or
            that the teacher does not fit.
    """
    given = values if isinstance(values, Layer) else overrides.from_mapping(values or {})
    above = (overrides.from_environment(environ), given, overrides.from_command_line(sets, flags))
    path = _choose(kind, file, above)
    first = kind == "distill" or tree is None  # not the recipe that another one refers to
    if tree is None:
        tree = trust.Folder(path.parent if path is not None else Path())
    layer = reduce(
        lambda below, over: lay(below, over, kind),
        above,
        extends.from_file(path, kind, tree) if path is not None else Layer(),
    )
    if file is None and path is not None:
        layer.notes.insert(
            0, f"no recipe and no teacher given: {shown_as(path)}, with what was set on top"
        )
    if file is not None and path is not None:
        _refuse_other_kind(kind, layer, path)
    shown = None if path is None else shown_as(path)
    named = NamedRecipes(tree, environ)
    rules = TeacherRules(kind, layer, named.resolve, shown)
    # before teachers are spared: a baseline has the data of the students that it is compared with
    rules.fill_in(any_student=any_student)
    by_default = file is None and path is not None
    if spare_teachers or by_default:
        rules.drop_unneeded(of_these_data=by_default)
    recipe = _build(kind, layer, rules, shown)
    if first:
        named.look_at_reference(layer)
    own_files, strangers = _files(layer)
    return Resolved(
        recipe,
        _origins(recipe, layer),
        tuple(layer.notes),
        path if file is not None else None,
        own_files.union(*(found.own_files for found in named.resolved)),
        (
            *strangers,
            *(stranger for found in named.resolved for stranger in found.strangers),
            *rules.strangers(),
        ),
    )


def resolve_teacher(
    file: Path | str,
    epochs: int | None = None,
    schedule: Stretch | None = None,
    *,
    values: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
    tree: trust.Folder | None = None,
) -> Resolved:
    """The recipe of a teacher, as long as a [teacher] section asks for.

    Args:
        file, epochs, schedule: that section's recipe, epochs and schedule.
        values, tree: as for `resolve`.

    Raises:
        UsageError: as `resolve`, and where there is nothing to cut off.
    """
    whole = resolve("train-teacher", file=file, values=values, environ=environ, tree=tree)
    if epochs is None:
        return whole
    changes = shortened(whole.recipe, epochs, schedule or "scaled")
    found = resolve(
        "train-teacher",
        file=file,
        values={**(values or {}), **changes},
        environ=environ,
        tree=tree,
    )
    told = ", ".join(f"{key} = {value}" for key, value in changes.items())
    note = (
        f"a teacher of {formatting.plural(epochs, 'epoch', ' ')} instead of "
        f"{whole.recipe.train.epochs}, "
        f"{schedule or 'scaled'}: {told}"
    )
    return replace(found, notes=(*found.notes, note))


def kind_of(file: Path | str) -> Kind:
    """The command that a recipe file is for: one with a [model] is train-teacher's.

    Raises:
        NotFound: no such recipe. RecipeInvalid: it is not TOML.
    """
    return (
        "train-teacher"
        if "model" in extends.from_file(shipped.locate(str(file)), "distill").values
        else "distill"
    )


class NamedRecipes:
    """The recipes that a recipe names: those of its teachers, and of what its gap is measured to.

    Args:
        tree: where recipes are the user's.

    resolved: those that were asked for.
    """

    def __init__(self, tree: trust.Folder, environ: Mapping[str, str]) -> None:
        self._tree = tree
        self._environ = environ
        self.resolved: list[Resolved] = []

    def resolve(self, origin: Origin | None, *asked: Any) -> Resolved:
        """The recipe of a teacher, as `resolve_teacher`.

        Args:
            origin: where its path was given; one that is of no file is the user's word.
        """
        word = origin is not None and origin.file is None and not origin.stranger
        found = resolve_teacher(*asked, environ=self._environ, tree=None if word else self._tree)
        self.resolved.append(found)
        return found

    def look_at_reference(self, layer: Layer) -> None:
        """Resolves the recipe that the report refers to, if it does; one that cannot be is refused
        when it is needed.
        """
        reference = layer.get("report", "reference")
        if isinstance(reference, str) and reference.endswith(".toml"):
            with suppress(KdError):
                self.resolve(layer.origins.get(("report", "reference")), reference)


def _files(layer: Layer) -> tuple[frozenset[str], list[trust.Stranger]]:
    """The Python files that a recipe names: the user's, and those of strangers."""
    own: set[str] = set()
    strangers = []
    for path, origin in layer.origins.items():
        value = layer.get(*path)
        file = trust.python_file(value) if isinstance(value, str) else None
        if file is None or path[0] not in (*NAMED, "teacher"):
            continue
        if not origin.stranger:
            own.add(str(file))
        else:
            by = origin.label if origin.at is not None else f"the {origin.label} {origin.file}"
            strangers.append(trust.Stranger(str(file), by))
    return frozenset(own), strangers


def _choose(kind: Kind, file: Path | str | None, above: Sequence[Layer]) -> Path | None:
    if file is not None:
        return shipped.locate(str(file))
    taught = kind == "distill" and any(layer.values.get("teacher") for layer in above)
    return None if taught else shipped.find(QUICKSTART[kind])


def _refuse_other_kind(kind: Kind, layer: Layer, path: Path) -> None:
    """A recipe of the other command would break at every second key: say what it is instead."""
    other: Kind = "distill" if kind == "train-teacher" else "train-teacher"
    ours, theirs = (recipe_class(which).model_fields.keys() for which in (kind, other))
    foreign = sorted((theirs - ours) & layer.values.keys())
    if foreign and not (ours - theirs) & layer.values.keys():
        problem, hint = (
            f"belongs to a recipe of kd {other}, not of kd {kind}",
            f"kd {other} {shown_as(path)}",
        )
        told = Explainer(recipe_class(kind), layer, {}).at(foreign[0], problem, hint, on_key=True)
        raise diagnostics.refuse(shown_as(path), [told])


def _build(kind: Kind, layer: Layer, rules: TeacherRules, shown: str | None) -> Recipe:
    """The valid recipe of a layer, or all of its problems and those of its teachers."""
    chosen, wrong = branches.choose(kind, layer)
    names = {section: name for section in chosen if (name := default_name(section, kind))}
    explainer = Explainer(recipe_class(kind), layer, chosen, names, shown)
    rules.problems += [
        explainer.at(f"{section}.name", error.message, error.hint)
        for section, error in wrong.items()
    ]
    rules.check_number()
    rules.problems += _out_of_reach(layer, chosen, explainer)
    found: Recipe | None = None
    try:
        # through JSON, because there strictness does not ask for Python's tuples: "3" is no number,
        # and 3 is a float
        text = json.dumps(branches.complete(kind, layer.values), default=str)
        found = branches.recipe_type(kind, chosen).model_validate_json(text, strict=True)
    except ValidationError as error:
        rules.problems += [
            item for item in explainer.explain(error) if not rules.explains_missing_student(item)
        ]
    if found is not None and not wrong:
        rules.check_fit(found.data)
    rules.refuse(shown or "the command line")
    assert found is not None
    return recipe_class(kind)(**{key: getattr(found, key) for key in type(found).model_fields})


def _out_of_reach(
    layer: Layer, sections: Mapping[str, type[BaseModel]], explainer: Explainer
) -> Iterator[Diagnostic]:
    """Complains of numbers too large for the arithmetic, where a key has no bound of its own."""
    for section, cls in sections.items():
        table = layer.get(section)
        for key, value in table.items() if isinstance(table, dict) else ():
            numbers = value if isinstance(value, list) else [value]
            large = [item for item in numbers if type(item) in {int, float} and _is_large(item)]
            if large and not is_bounded(cls, key):
                shown = diagnostics.toml_of(large[0])
                problem = f"must be at most {LARGEST:.0e} in size, got {shown}"
                yield explainer.at(f"{section}.{key}", problem)


def _is_large(number: float) -> bool:
    return LARGEST < abs(number) != math.inf  # infinity is no number to the validator


def _origins(recipe: Recipe, layer: Layer) -> dict[str, str]:
    """The origin of each value, by dotted key; [teacher] has no number where it is one."""
    single = not isinstance(layer.get("teacher"), list)
    found: dict[str, str] = {}
    for path in _leaves(recipe):
        plain = (path[0], *path[2:]) if path[0] == "teacher" and single else path
        exact = layer.origins.get(plain)
        found[dotted(plain)] = exact.label if exact is not None else "default"
    return found


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, BaseModel):
        return [
            leaf
            for key in type(value).model_fields
            for leaf in _leaves(getattr(value, key), (*path, key))
        ]
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return [
            leaf for number, item in enumerate(value) for leaf in _leaves(item, (*path, number))
        ]
    return [path]


def teacher_recipe(section: TeacherSection, student: Recipe) -> tuple[Resolved, str]:
    """The recipe of a teacher that is named by recipe, and the command line for its
    environment.json.
    """
    length = (
        f" (teacher.epochs = {section.epochs}, {section.schedule or 'scaled'})"
        if section.epochs is not None
        else ""
    )
    values = shared_place(student)
    resolved = resolve_teacher(str(section.recipe), section.epochs, section.schedule, values=values)
    if samples := shared_samples(student, resolved.recipe):
        resolved = resolve_teacher(
            str(section.recipe), section.epochs, section.schedule, values={**values, **samples}
        )
    return resolved, f"kd train-teacher {section.recipe}{length}"


def shared_place(student: Recipe) -> dict[str, Any]:
    """Where a student's teacher is computed, and where its datasets lie, by dotted key: where the
    student's do.
    """
    runtime = student.runtime
    place = {
        "data.root": student.data.root,
        **{f"runtime.{key}": getattr(runtime, key) for key in ("device", "devices", "threads")},
    }
    return {key: value for key, value in place.items() if value is not None}


def shared_samples(student: Recipe, teacher: Recipe) -> dict[str, Any]:
    """Which samples a student's teacher is trained and tested on, by dotted key, where it is of the
    same dataset and its recipe leaves that open: the student's. Those of a path of its own stay.
    """
    path = getattr(student.data, "path", None)
    if student.data.name != teacher.data.name or getattr(teacher.data, "path", path) not in {
        None,
        path,
    }:
        return {}
    return {
        f"data.{key}": asked
        for key in ("path", "test_fraction", "test_seed")
        if (asked := getattr(student.data, key, None)) is not None
        and getattr(teacher.data, key, asked) is None
    }
