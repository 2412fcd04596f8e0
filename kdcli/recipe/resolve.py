"""From a file, overrides and the environment to a recipe that is whole and valid, or to all of its problems at once.

No torch is imported: what does not fit is refused before anything slow begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kdcli import catalog
from kdcli.errors import Diagnostic, KdError, RecipeInvalid, UsageError
from kdcli.recipe import diagnostics, inherit, overrides, sections, shipped, teachers
from kdcli.recipe.diagnostics import Explainer
from kdcli.recipe.document import Origin, shown_as
from kdcli.recipe.layers import Kind, Layer, default_name, dotted, lay, recipe_class
from kdcli.recipe.overrides import Flag
from kdcli.recipe.schema import Recipe, TrainTeacherRecipe

__all__ = ["Flag", "Kind", "Resolved", "kind_of", "resolve"]

QUICKSTART: Mapping[Kind, str] = {"train-teacher": "quickstart-teacher", "distill": "quickstart"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A valid recipe.

    origins: for every dotted key where its value came from: "default", "base.toml:4", "KD_DATA_DIR", "--set", "--epochs",
    "teacher's file". notes: what was chosen automatically and why, one sentence each. path: the file, None without one.
    """

    recipe: Recipe
    origins: Mapping[str, str]
    notes: tuple[str, ...]
    path: Path | None


def resolve(
    kind: Kind,
    *,
    file: Path | str | None = None,
    values: Mapping[str, Any] | Layer | None = None,
    sets: Sequence[str] = (),
    flags: Sequence[Flag] = (),
    environ: Mapping[str, str] = os.environ,
    spare_teachers: bool = False,
) -> Resolved:
    """A valid recipe from, low to high: defaults, what the file extends, the file, KD_DATA_DIR, `values`, --set, flags.

    Args:
        kind: whose recipe it is.
        file: a path, or the name of a shipped recipe. Without one and without a teacher, the shipped quickstart.
        values: dotted keys with values, for notebooks; or a layer that knows where each came from, for sweeps.
        sets: KEY=VALUE, as --set takes them.
        flags: named options.
        environ: where KD_DATA_DIR is looked up.
        spare_teachers: a method that takes no teacher ignores those of the recipe, instead of refusing them.

    Raises:
        RecipeInvalid: with every problem that can be told without loading data or weights, each at its place.
        NotFound, BadCheckpoint, Incompatible: the only problem is the file, the teacher's file, or that the teacher does not fit.
    """
    given = values if isinstance(values, Layer) else overrides.from_mapping(values or {})
    above = (overrides.from_environment(environ), given, overrides.from_command_line(sets, flags))
    path = _choose(kind, file, above)
    layer = reduce(lambda below, over: lay(below, over, kind), above, inherit.from_file(path, kind) if path is not None else Layer())
    if file is None and path is not None:
        layer.notes.insert(0, f"no recipe and no teacher given: {shown_as(path)}, with what was set on top")
    if file is not None and path is not None:
        _refuse_other_kind(kind, layer, path)
    work = _Work(kind, layer, environ, None if path is None else shown_as(path))
    recipe = work.run(spare_teachers=spare_teachers or (file is None and path is not None))
    return Resolved(recipe, _origins(recipe, layer), tuple(layer.notes), path if file is not None else None)


def kind_of(file: Path | str) -> Kind:
    """Which command a recipe file is for: one with a [model] is train-teacher's.

    Raises:
        NotFound: no such recipe. RecipeInvalid: it is not TOML.
    """
    return "train-teacher" if "model" in inherit.from_file(shipped.locate(str(file)), "distill").values else "distill"


def _choose(kind: Kind, file: Path | str | None, above: Sequence[Layer]) -> Path | None:
    if file is not None:
        return shipped.locate(str(file))
    taught = kind == "distill" and any("teacher" in layer.values for layer in above)
    return None if taught else shipped.find(QUICKSTART[kind])


def _refuse_other_kind(kind: Kind, layer: Layer, path: Path) -> None:
    """A recipe of the other command would break at every second key: say what it is instead."""
    other: Kind = "distill" if kind == "train-teacher" else "train-teacher"
    ours, theirs = (recipe_class(which).model_fields.keys() for which in (kind, other))
    foreign = sorted((theirs - ours) & layer.values.keys())
    if foreign and not (ours - theirs) & layer.values.keys():
        problem, hint = f"belongs to a recipe of kd {other}, not of kd {kind}", f"kd {other} {shown_as(path)}"
        told = Explainer(recipe_class(kind), layer, {}).at(foreign[0], problem, hint, on_key=True)
        raise diagnostics.refuse(shown_as(path), [told])


class _Work:
    """One recipe on its way. Problems are collected, so that all are told at once."""

    def __init__(self, kind: Kind, layer: Layer, environ: Mapping[str, str], shown: str | None) -> None:
        self.kind = kind
        self.layer = layer
        self.environ = environ
        self.shown = shown
        self.problems: list[Diagnostic] = []
        self.refusals: list[tuple[str, KdError]] = []  # complete errors of their own, by key
        self.teachers: list[teachers.Known] = []
        self.unread = False  # a teacher's file could not be read
        self.explainer = Explainer(recipe_class(kind), layer, {}, file=shown)

    def run(self, *, spare_teachers: bool) -> Recipe:
        if self.kind == "distill":
            self._meet_teachers()
            self._fill_in()  # before they are spared: a baseline has the data of the students that it is compared with
            if spare_teachers:
                self._spare_teachers()
        chosen, wrong = sections.choose(self.kind, self.layer)
        names = {section: name for section in chosen if (name := default_name(section, self.kind))}
        self.explainer = Explainer(recipe_class(self.kind), self.layer, chosen, names, self.shown)
        self.problems += [self.explainer.at(f"{section}.name", error.message, error.hint) for section, error in wrong.items()]
        recipe = self._validate(chosen)
        if "method" not in wrong:
            self._check_arity()
        if recipe is not None and "data" not in wrong:
            self._check_fit(recipe)
        self._raise()
        assert recipe is not None
        return recipe

    def _validate(self, chosen: Mapping[str, type[BaseModel]]) -> Recipe | None:
        values = sections.complete(self.kind, self.layer.values)
        narrowed = sections.recipe_type(self.kind, chosen)
        try:
            # through JSON, because there strictness does not ask for Python's tuples; "3" is no number, 3 is a float
            found = narrowed.model_validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError as error:
            told = self.explainer.explain(error)
            unread = len(self._teacher_tables()) > len(self.teachers)  # a teacher that is read would have named the student
            self.problems += [
                item for item in told if not (unread and item.key.partition(".")[0] == "student" and item.problem == "missing")
            ]
            return None
        return recipe_class(self.kind)(**{key: getattr(found, key) for key in narrowed.model_fields})

    def _raise(self) -> None:
        if not self.problems and len(self.refusals) == 1:
            raise self.refusals[0][1]
        told = [self.explainer.at(key, error.message, error.hint) for key, error in self.refusals]
        if self.problems or told:
            raise diagnostics.refuse(self.shown or "the command line", [*self.problems, *told])

    # ---- teachers ------------------------------------------------------------------------------------------------

    def _teacher_tables(self) -> list[tuple[str, dict[str, Any]]]:
        """The teachers as given, each with its dotted key."""
        given = self.layer.get("teacher")
        if isinstance(given, list):
            return [(f"teacher.{number}", table) for number, table in enumerate(given) if isinstance(table, dict)]
        return [("teacher", given)] if isinstance(given, dict) else []

    def _meet_teachers(self) -> None:
        ways = {"checkpoint": teachers.from_checkpoint, "recipe": self._future_teacher, "name": teachers.check_pretrained}
        for key, table in self._teacher_tables():
            for source in ways.keys() & table.keys():
                self._meet(f"{key}.{source}", table[source], ways[source])

    def _meet(self, key: str, value: Any, meet: Callable[[str], teachers.Known | None]) -> None:
        if not isinstance(value, str):
            return
        try:
            known = meet(value)
        except RecipeInvalid as error:
            self.unread = True
            self.problems += error.diagnostics
        except UsageError as error:
            self.unread = True
            self.refusals.append((key, error))
        else:
            self.teachers += [known] if known is not None else []

    def _future_teacher(self, path: str) -> teachers.Known:
        recipe = resolve("train-teacher", file=path, environ=self.environ).recipe
        assert isinstance(recipe, TrainTeacherRecipe)
        return teachers.from_recipe(path, recipe)

    def _spare_teachers(self) -> None:
        if self._arity() == (0, 0):
            self.layer.forget(("teacher",))
            self.teachers = []

    def _arity(self) -> tuple[int, int | None] | None:
        name = self.layer.get("method", "name") or default_name("method", self.kind)
        try:
            least, most = catalog.entry("method", str(name)).facts.get("teachers") or (1, 1)
        except UsageError:
            return None
        return least, most

    def _check_arity(self) -> None:
        arity, given = self._arity(), len(self._teacher_tables())
        if arity is None or (given >= arity[0] and (arity[1] is None or given <= arity[1])):
            return
        name = self.layer.get("method", "name") or default_name("method", self.kind)
        if self.kind == "train-teacher":
            self.problems.append(
                self.explainer.at("method.name", f"{name} needs a teacher", "kd distill has one; train-teacher learns from labels")
            )
        elif given == 0:
            self.problems.append(
                self.explainer.at("teacher", f"missing: {name} needs {_teachers(arity)}", "--teacher RUN, or [teacher] in the recipe")
            )
        else:
            hint = "remove [teacher]" if arity[1] == 0 else "kd methods shows how many each method takes"
            self.problems.append(self.explainer.at("teacher", f"{name} takes {_teachers(arity)}, got {given}", hint))

    def _check_fit(self, recipe: Recipe) -> None:
        images = teachers.images_of(recipe.data)
        for known in self.teachers:
            try:
                teachers.check_fit(known, images)
            except KdError as error:
                self.refusals.append(("teacher", error))

    # ---- what the teacher tells ----------------------------------------------------------------------------------

    def _fill_in(self) -> None:
        """Data and student from the first teacher, unless they are set."""
        if not self.teachers:
            return
        teacher = self.teachers[0]
        if self.layer.get("data", "name") is None and isinstance(teacher.data.get("name"), str):
            self._fill_in_data(teacher)
        if self.layer.get("student", "name") is None:
            self._fill_in_student(teacher)

    def _fill_in_data(self, teacher: teachers.Known) -> None:
        name, origin = str(teacher.data["name"]), Origin(teacher.told_by, file=teacher.path)
        try:
            options = catalog.options_class(catalog.entry("dataset", name)).model_fields
        except UsageError:
            options = {}
        for key in ("name", *options):
            if teacher.data.get(key) is not None and self.layer.get("data", key) is None:
                self.layer.put(("data", key), teacher.data[key], origin)
        self.layer.notes.append(f"data {name}: what the teacher was trained on")

    def _fill_in_student(self, teacher: teachers.Known) -> None:
        try:
            smaller = catalog.entry("model", teacher.architecture).facts.get("smaller")
        except UsageError:
            smaller = None
        if smaller is None:
            problem = f"missing: kd knows no smaller sibling of the teacher's {teacher.architecture}"
            self.problems.append(self.explainer.at("student.name", problem, "--student NAME  (kd models lists them)"))
            return
        self.layer.put(("student", "name"), smaller, Origin(teacher.told_by, file=teacher.path))
        self.layer.notes.append(f"student {smaller}: the smaller sibling of the teacher's {teacher.architecture}")


def _teachers(arity: tuple[int, int | None]) -> str:
    least, most = arity
    if most == 0:
        return "no teacher"
    if most is None:
        return f"at least {least} teacher{'s' if least > 1 else ''}"
    return ("one teacher" if least == 1 else f"{least} teachers") if least == most else f"{least} to {most} teachers"


def _origins(recipe: Recipe, layer: Layer) -> dict[str, str]:
    """Where each value came from, by dotted key; [teacher] has no number where it is one."""
    single = not isinstance(layer.get("teacher"), list)
    found: dict[str, str] = {}
    for path in _leaves(recipe):
        plain = (path[0], *path[2:]) if path[0] == "teacher" and single else path
        exact = layer.origins.get(plain)
        found[dotted(plain)] = exact.label if exact is not None else "default"
    return found


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, BaseModel):
        return [leaf for key in type(value).model_fields for leaf in _leaves(getattr(value, key), (*path, key))]
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return [leaf for number, item in enumerate(value) for leaf in _leaves(item, (*path, number))]
    return [path]
