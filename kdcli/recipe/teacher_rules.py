"""Rules that teachers make for a recipe: the data and the student that follow from them, their
number, and their fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from kdcli import catalog, trust
from kdcli.errors import Diagnostic, KdError, RecipeInvalid, UsageError
from kdcli.recipe import teacher_facts
from kdcli.recipe.reading import diagnostics
from kdcli.recipe.reading.class_map import read_class_map
from kdcli.recipe.reading.diagnostics import Explainer
from kdcli.recipe.reading.layers import Kind, Layer, default_name, recipe_class
from kdcli.recipe.reading.toml_file import Origin
from kdcli.recipe.schema import BOUNDS, DataSection, Recipe, TrainTeacherRecipe

_ANY_STUDENT = "mlp"  # of pictures
# of a teacher: what a reference, which is a name alone, cannot say, and would answer otherwise for
_BEYOND_A_NAME = {"epochs", "classes", "size", "resize", "interpolation", "mean", "std"}


class ResolvedTeacher(Protocol):
    """What is asked of the resolved recipe of a teacher."""

    @property
    def recipe(self) -> Recipe:
        """The valid recipe."""

    @property
    def strangers(self) -> tuple[trust.Stranger, ...]:
        """The Python files in it that are not the user's."""


ResolveTeacher = Callable[..., ResolvedTeacher]
# of teachers that a method takes: at least, and at most (None: no limit)
Number = tuple[int, int | None]


class TeacherRules:
    """The teachers of a recipe in the making.

    Args:
        layer: the recipe's values; what follows from the teachers is put into it.
        resolve_teacher: resolves the train-teacher recipe of a path, from the origin of that path,
            the path, and the epochs and the schedule that [teacher] gives beside it.
        shown: the recipe's file, if it has one.

    problems: diagnostics so far, of teachers and of whoever adds to them. refusals: errors that are
    whole by themselves.
    """

    def __init__(
        self, kind: Kind, layer: Layer, resolve_teacher: ResolveTeacher, shown: str | None
    ) -> None:
        self.kind = kind
        self.layer = layer
        self.explainer = Explainer(recipe_class(kind), layer, {}, file=shown)
        self.problems: list[Diagnostic] = []
        self.refusals: list[tuple[str, KdError]] = []
        self._resolve_teacher = resolve_teacher
        self._known: list[teacher_facts.Known] = []
        # because its file is damaged or has no sibling, which is told already
        self._names_no_student = False
        if kind == "distill":
            self._read_teachers()

    def refuse(self, shown: str) -> None:
        """Raises what is wrong, if anything is: a lone refusal as itself, else everything as one
        error.
        """
        if not self.problems and len(self.refusals) == 1:
            raise self.refusals[0][1]
        told = [self.explainer.at(key, error.message, error.hint) for key, error in self.refusals]
        if self.problems or told:
            raise diagnostics.refuse(shown, [*self.problems, *told])

    def explains_missing_student(self, problem: Diagnostic) -> bool:
        """Tells whether a missing student is no problem of its own: the teacher would have named
        one.
        """
        return (
            self._names_no_student
            and problem.problem == "missing"
            and problem.key in {"student", "student.name"}
        )

    # ---- who they are ----------------------------------------------------------------------------

    def _tables(self) -> list[tuple[str, dict[str, Any]]]:
        """The teachers as given, each with its dotted key."""
        given = self.layer.get("teacher")
        if isinstance(given, list):
            return [
                (f"teacher.{number}", table)
                for number, table in enumerate(given)
                if isinstance(table, dict)
            ]
        return [("teacher", given)] if isinstance(given, dict) else []

    def _read_teachers(self) -> None:
        for key, table in self._tables():
            if isinstance(table.get("classes"), str):
                try:
                    # in its place: a run holds the map itself, and needs the file no more
                    table["classes"] = read_class_map(Path(table["classes"]))
                except KdError as error:
                    table["classes"] = {}
                    self.refusals.append((f"{key}.classes", error))
            mapped = "classes" in table
            if isinstance(table.get("checkpoint"), str):
                read = partial(teacher_facts.from_checkpoint, table["checkpoint"])
                self._read_one(f"{key}.checkpoint", read, mapped=mapped)
            if isinstance(table.get("recipe"), str):
                read = partial(self._of_recipe, key, table)
                self._read_one(f"{key}.recipe", read, mapped=mapped)
            if isinstance(table.get("name"), str):
                try:
                    teacher_facts.check_pretrained(table["name"])
                except UsageError as error:
                    self.refusals.append((f"{key}.name", error))

    def _read_one(self, key: str, read: Callable[[], teacher_facts.Known], *, mapped: bool) -> None:
        try:
            self._known.append(replace(read(), mapped=mapped))
        except RecipeInvalid as error:
            self.problems += error.diagnostics
            self._names_no_student = True
        except UsageError as error:
            self.refusals.append((key, error))
            self._names_no_student = True

    def _of_recipe(self, key: str, table: Mapping[str, Any]) -> teacher_facts.Known:
        path, epochs, schedule = (table.get(key) for key in ("recipe", "epochs", "schedule"))
        # nothing is validated yet: a length that is none is told by the validator
        asked = (
            (epochs, schedule)
            if type(epochs) is int and epochs > 0 and schedule in {None, "scaled", "truncated"}
            else ()
        )
        parts = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        found = self._resolve_teacher(self.layer.origin((*parts, "recipe")), path, *asked)
        assert isinstance(found.recipe, TrainTeacherRecipe)
        strange = {stranger.file for stranger in found.strangers}
        data = trust.files_in(found.recipe.data.name)
        return teacher_facts.from_recipe(
            str(path), found.recipe, data_of_a_stranger=not strange.isdisjoint(data)
        )

    def strangers(self) -> list[trust.Stranger]:
        """The Python files that the teachers' files need and name themselves."""
        return [
            trust.Stranger(file, f"the header of {known.path}")
            for known in self._known
            for file in known.files
        ]

    # ---- how many, and whether they fit ----------------------------------------------------------

    def drop_unneeded(self, *, of_these_data: bool = False) -> None:
        """Forgets teachers that the method does not take; an only one becomes what the gap is
        measured to.

        Args:
            of_these_data: only one that was trained on the dataset of this name: nobody has named
                it.
        """
        if self._number() != (0, 0):
            return
        name = self.layer.get("data", "name")
        strange = of_these_data and any(known.data.get("name") != name for known in self._known)
        tables = self._tables()
        sources = [
            ("teacher", key)
            for key in ("checkpoint", "recipe")
            if len(tables) == 1 and isinstance(tables[0][1].get(key), str)
        ]
        otherwise = any(not _BEYOND_A_NAME.isdisjoint(table) for _, table in tables)
        if sources and not (otherwise or strange) and self.layer.get("report", "reference") is None:
            origin = self.layer.origin(sources[0]) or Origin("the teacher")
            self.layer.put(("report", "reference"), tables[0][1][sources[0][1]], origin)
        self.layer.forget(("teacher",))
        self._known = []

    def _method(self) -> str:
        return str(self.layer.get("method", "name") or default_name("method", self.kind))

    def _number(self) -> Number | None:
        """The number of teachers the method takes; None where there is no such method."""
        try:
            least, most = catalog.entry("method", self._method()).facts.get("teachers") or (1, 1)
        except UsageError:
            return None
        return least, most

    def check_number(self) -> None:
        """Complains where the method takes more or fewer teachers than there are."""
        number, given, name = self._number(), len(self._tables()), self._method()
        if number is None or (given >= number[0] and (number[1] is None or given <= number[1])):
            return
        if self.kind == "train-teacher":
            told = (
                "method.name",
                f"{name} needs a teacher",
                "kd distill has one; train-teacher learns from labels",
            )
        elif given == 0:
            told = (
                "teacher",
                f"missing: {name} needs {catalog.teachers_in_words(*number)}",
                "--teacher RUN, or [teacher] in the recipe",
            )
        else:
            hint = (
                "leave [teacher] out"
                if number[1] == 0
                else "kd methods shows how many each method takes"
            )
            told = (
                "teacher",
                f"{name} takes {catalog.teachers_in_words(*number)}, got {given}",
                hint,
            )
        self.problems.append(self.explainer.at(*told))

    def check_fit(self, data: DataSection) -> None:
        """Complains of teachers that were not trained for such images."""
        images = teacher_facts.images_of(data)
        for known in self._known:
            try:
                teacher_facts.check_fit(known, images)
                teacher_facts.check_test_part(known, data)
            except KdError as error:
                self.refusals.append(("teacher", error))

    # ---- what follows from them ------------------------------------------------------------------

    def fill_in(self, *, any_student: bool = False) -> None:
        """Takes data and student from the first teacher, unless they are set.

        Args:
            any_student: whether any network will do where no student follows: whoever asks puts
                others in its place.
        """
        if not self._known:
            return
        teacher = self._known[0]
        if self._is_open("data") and isinstance(teacher.data.get("name"), str):
            self._fill_in_data(teacher)
        if self._is_open("student"):
            self._fill_in_student(teacher, any_student=any_student)

    def _is_open(self, section: str) -> bool:
        table = self.layer.get(section)
        return table is None or (isinstance(table, dict) and "name" not in table)

    def _fill_in_data(self, teacher: teacher_facts.Known) -> None:
        name = str(teacher.data["name"])
        origin = Origin(teacher.told_by, file=teacher.path, stranger=teacher.data_of_a_stranger)
        try:
            options = catalog.options_class(catalog.entry("dataset", name)).model_fields
        except UsageError:  # the validator says so
            options = {}
        for key in ("name", *(option for option in options if option not in BOUNDS)):
            if teacher.data.get(key) is not None and self.layer.get("data", key) is None:
                self.layer.put(("data", key), teacher.data[key], origin)
        self.layer.notes.append(f"data {name}: what the teacher was trained on")

    def _fill_in_student(self, teacher: teacher_facts.Known, *, any_student: bool) -> None:
        try:
            smaller = catalog.entry("model", teacher.architecture).facts.get("smaller")
        except UsageError:
            smaller = None
        if smaller is None and any_student:
            self.layer.put(("student", "name"), _ANY_STUDENT, Origin(teacher.told_by))
            return
        if smaller is None:
            problem = (
                f"missing: kd knows no smaller sibling of the teacher's {teacher.architecture}"
            )
            self.problems.append(
                self.explainer.at(
                    "student.name",
                    problem,
                    f"--student NAME  (kd models --teacher {teacher.path} proposes some)",
                )
            )
            self._names_no_student = True
            return
        self.layer.put(("student", "name"), smaller, Origin(teacher.told_by, file=teacher.path))
        self.layer.notes.append(
            f"student {smaller}: the smaller sibling of the teacher's {teacher.architecture}"
        )
