"""The file of a sweep: its format, and everything that can be wrong with it, told at once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from kdcli import catalog
from kdcli.errors import Diagnostic, NotFound, RecipeInvalid
from kdcli.recipe import shipped
from kdcli.recipe.reading import diagnostics, extends
from kdcli.recipe.reading.diagnostics import Explainer, toml_of
from kdcli.recipe.reading.layers import Kind, Layer, recipe_class
from kdcli.recipe.reading.overrides import parse_key
from kdcli.recipe.reading.toml_file import Origin
from kdcli.recipe.resolve import kind_of
from kdcli.recipe.schema import Section
from kdcli.recipe.sweep import inherited
from kdcli.recipe.sweep.inherited import Inherited
from kdcli.results import metric_paths


class TableSection(Section):
    """[table]: how `kd table` shows the sweep. Axes by name; those that are not named become rows,
    and "seed" goes to `over`.
    """

    rows: tuple[str, ...] = Field((), description="Axes that make the rows.")
    columns: tuple[str, ...] = Field((), description="Axes that make the columns.")
    over: tuple[str, ...] = Field(
        (), description="Axes over which mean and standard deviation are taken."
    )
    metrics: tuple[str, ...] = Field(
        ("test.accuracy",), min_length=1, description="Numbers of a run's summary.json."
    )


class PaperValue(Section):
    """[[paper]]: a number that was published, to stand beside ours. row, column: labels, several
    joined by ", ".
    """

    row: str = Field("", description="Label of the row.")
    column: str = Field("", description="Label of the column.")
    metric: str = Field("test.accuracy", description="Which of the table's metrics.")
    value: float = Field(description="The number, in our units: accuracy is a fraction.")
    source: str = Field("", description="Where it is printed, for example Table 3.")


class PointTable(Section):
    """A value of an axis that sets several keys at once."""

    label: str = Field(min_length=1, description="What the table calls it.")
    set: dict[str, Any] = Field(
        default_factory=dict, description="Dotted recipe keys and their values."
    )


class Adjustment(Section):
    """[[adjust]]: keys that some combinations set besides their axes, such as a method's option
    that was published pair by pair.
    """

    cells: dict[str, Any] = Field(
        min_length=1, description="Which combinations, by value or label, as in [[exclude]]."
    )
    set: dict[str, Any] = Field(
        min_length=1, description="Dotted recipe keys and their values, over those of the axes."
    )


class SweepFile(Section):
    """A sweep as written. An axis is a recipe key with its values, or any name with values that
    have a label and a `set`.
    """

    extends: str | None = Field(
        None,
        description="A sweep beside this file that this one changes: its axes, set and table key "
        "by key; paper, exclude and adjust are its own or those of the other.",
    )
    title: str = Field("", description="Title of the table.")
    base: str = Field(
        description="The recipe that every cell starts from; a path beside this file."
    )
    set: dict[str, Any] = Field(
        default_factory=dict,
        description="Dotted recipe keys and their values in every cell, under those of the axes.",
    )
    axes: dict[str, tuple[Any, ...]] = Field(
        min_length=1, description="The axes; cells are all combinations."
    )
    exclude: tuple[dict[str, Any], ...] = Field(
        (), description="Combinations that are left out, by value or label."
    )
    adjust: tuple[Adjustment, ...] = Field(
        (), description="What some combinations set besides; of two the later one counts."
    )
    table: TableSection = Field(default_factory=TableSection, description="How it is shown.")
    paper: tuple[PaperValue, ...] = Field((), description="Published numbers.")


# values by dotted recipe key, and where each stands in the file
Sets = Mapping[str, tuple[Any, Origin]]


@dataclass(frozen=True, slots=True)
class Point:
    """One value of an axis, and what it sets."""

    label: str
    sets: Sets


@dataclass(frozen=True, slots=True)
class Read:
    """A valid sweep file. always: what every cell sets. adjusted: what each of its adjustments
    sets, in their order.
    """

    path: Path
    content: SweepFile
    base: Path
    kind: Kind
    always: Sets
    points: Mapping[str, tuple[Point, ...]]
    adjusted: tuple[Sets, ...]
    table: TableSection

    def combinations(self) -> Iterator[dict[str, Point]]:
        """One point of every axis, for every cell that is not excluded."""
        for chosen in itertools.product(*self.points.values()):
            cell = dict(zip(self.points, chosen, strict=True))
            if not any(_matches(cell, rule) for rule in self.content.exclude):
                yield cell

    def labels(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Labels of the table's rows, and of its columns."""
        cells = self.places()
        return tuple(dict.fromkeys(row for row, _ in cells)), tuple(
            dict.fromkeys(column for _, column in cells)
        )

    def places(self) -> tuple[tuple[str, str], ...]:
        """Row and column of every cell of the table that is not excluded."""
        axes = (self.table.rows, self.table.columns)
        found = (
            tuple(", ".join(cell[axis].label for axis in some) for some in axes)
            for cell in self.combinations()
        )
        return tuple(dict.fromkeys((row, column) for row, column in found))

    def paper(self) -> tuple[PaperValue, ...]:
        """The published numbers of cells that are here: a sweep that extends another one may have
        fewer.
        """
        rows, columns = self.labels()
        return tuple(
            value
            for value in self.content.paper
            if value.row in rows and value.column in columns and value.metric in self.table.metrics
        )

    def settings(self, chosen: Mapping[str, Point]) -> tuple[dict[str, Any], Layer]:
        """What a combination sets: by dotted key, and as the layer that resolve() takes."""
        layer, plain = Layer(), {}
        rules = zip(self.content.adjust, self.adjusted, strict=True)
        besides = (sets for rule, sets in rules if _matches(chosen, rule.cells))
        for sets in (self.always, *(point.sets for point in chosen.values()), *besides):
            for key, (value, origin) in sets.items():
                plain[key] = value
                layer.put(parse_key(key), value, origin)
        return plain, layer


def _matches(cell: Mapping[str, Point], rule: Mapping[str, Any]) -> bool:
    values = {key: value for point in cell.values() for key, (value, _) in point.sets.items()}
    labels = {axis: point.label for axis, point in cell.items()}
    return all(
        labels.get(key) == value or (key in values and values[key] == value)
        for key, value in rule.items()
    )


def read(path: Path | str) -> Read:
    """Reads and checks a sweep file.

    Raises:
        NotFound: no such sweep. RecipeInvalid: with all its problems.
    """
    found = inherited.from_file(shipped.locate(str(path)))
    content = _validate(found)
    check = _Check(found, content)
    base, kind = check.base()
    always = check.flat(kind, content.set, ("set",))
    points = check.points(kind)
    adjusted = tuple(
        check.flat(kind, rule.set, ("adjust", number, "set"))
        for number, rule in enumerate(content.adjust)
    )
    result = Read(
        found.own.path,
        content,
        base,
        kind,
        always,
        points,
        adjusted,
        _whole_table(content.table, tuple(points)),
    )
    check.names(result)
    check.refuse()
    return result


def _validate(read: Inherited) -> SweepFile:
    try:
        return SweepFile.model_validate_json(json.dumps(read.values, default=str), strict=True)
    except ValidationError as error:
        raise diagnostics.refuse(read.own.shown, _explainer(read).explain(error)) from error


def _explainer(read: Inherited) -> Explainer:
    return Explainer(
        SweepFile,
        read.layer(),
        {"table": TableSection, "paper": PaperValue, "axes": PointTable, "adjust": Adjustment},
    )


def _whole_table(table: TableSection, axes: Sequence[str]) -> TableSection:
    """The table with every axis somewhere: one that is nowhere would mix different runs in one
    place.
    """
    named = {*table.rows, *table.columns, *table.over}
    free = [axis for axis in axes if axis not in named]
    rows = tuple(axis for axis in free if axis != "seed")
    over = tuple(axis for axis in free if axis == "seed")
    return table.model_copy(update={"rows": (*table.rows, *rows), "over": (*table.over, *over)})


class _Check:
    """The rules of a sweep that are about several of its keys."""

    def __init__(self, read: Inherited, content: SweepFile) -> None:
        self.read = read
        self.content = content
        self.problems: list[Diagnostic] = []

    def complain(
        self,
        path: tuple[str | int, ...],
        problem: str,
        hint: str | None = None,
        *,
        on_key: bool = False,
    ) -> None:
        key = ".".join(str(part) for part in path)
        self.problems.append(self.read.origin(path).diagnostic(key, problem, hint, on_key=on_key))

    def refuse(self) -> None:
        if self.problems:
            raise diagnostics.refuse(self.read.own.shown, self.problems)

    def base(self) -> tuple[Path, Kind]:
        try:
            beside = self.read.document(("base",)).path.parent
            base = shipped.locate(self.content.base, beside=beside)
            return base, kind_of(base)
        except NotFound as error:
            self.complain(("base",), f"there is no recipe {self.content.base!r}", error.hint)
        except RecipeInvalid as error:
            self.problems += error.diagnostics
        self.refuse()
        raise AssertionError("unreachable: one of the two complained")

    # ---- axes ------------------------------------------------------------------------------------

    def points(self, kind: Kind) -> dict[str, tuple[Point, ...]]:
        found: dict[str, tuple[Point, ...]] = {}
        setters: dict[str, str] = {}
        for axis, values in self.content.axes.items():
            points = [self._point(kind, axis, number, value) for number, value in enumerate(values)]
            found[axis] = tuple(point for point in points if point is not None)
            self._check_axis(axis, found[axis], setters)
        return found

    def _point(self, kind: Kind, axis: str, number: int, value: Any) -> Point | None:
        path = ("axes", axis, number)
        if not isinstance(value, dict):
            return self._plain_point(kind, path, value)
        try:
            table = PointTable.model_validate(value)
        except ValidationError as error:
            self.problems += _explainer(self.read).explain(error, under=path)
            return None
        return Point(table.label, self.flat(kind, table.set, (*path, "set")))

    def _plain_point(self, kind: Kind, path: tuple[str, str, int], value: Any) -> Point | None:
        axis = path[1]
        if axis.partition(".")[0] not in recipe_class(kind).model_fields:
            hint = (
                'write {label = "...", set = {"method.name" = "kd"}}, or name the axis by the key'
            )
            self.complain(
                path,
                f"{axis} is no recipe key, so each of its values needs a label and a set",
                hint,
            )
            return None
        label = value if isinstance(value, str) else toml_of(value)
        return Point(label, {axis: (self._located(path, axis, value), self.read.origin(path))})

    def flat(self, kind: Kind, table: Mapping[str, Any], path: tuple[str | int, ...]) -> Sets:
        """A `set` by dotted keys, which are checked as far as their section."""
        sets = dict(self._flat(table, path, ""))
        for key in sets:
            self._check_key(kind, (*path, key), key)
        return sets

    def _flat(
        self, table: Mapping[str, Any], path: tuple[str | int, ...], prefix: str
    ) -> Iterator[tuple[str, tuple[Any, Origin]]]:
        for key, value in table.items():
            if isinstance(value, dict):
                yield from self._flat(value, (*path, key), f"{prefix}{key}.")
            else:
                yield (
                    f"{prefix}{key}",
                    (self._located(path, f"{prefix}{key}", value), self.read.origin((*path, key))),
                )

    def _located(self, path: tuple[str | int, ...], key: str, value: Any) -> Any:
        """A teacher's recipe stands beside the sweep, as it would beside a recipe."""
        return (
            extends.portable(value, self.read.document(path).path.parent)
            if key == "teacher.recipe" and isinstance(value, str)
            else value
        )

    def _check_key(self, kind: Kind, path: tuple[str | int, ...], key: str) -> None:
        sections = tuple(recipe_class(kind).model_fields)
        section = key.partition(".")[0]
        if section not in sections:
            near = catalog.suggest(section, sections)
            self.complain(
                path,
                f"{section} is no section of a recipe",
                f'did you mean "{near}"?' if near else None,
                on_key=True,
            )

    def _check_axis(self, axis: str, points: tuple[Point, ...], setters: dict[str, str]) -> None:
        if not self.content.axes[axis]:
            self.complain(("axes", axis), "needs at least one value")
        labels = [point.label for point in points]
        for label in {label for label in labels if labels.count(label) > 1}:
            self.complain(("axes", axis), f"two of its values are called {label!r}")
        for key in {key for point in points for key in point.sets}:
            if setters.setdefault(key, axis) != axis:
                self.complain(
                    ("axes", axis),
                    f"{key} is set by the axis {setters[key]} too",
                    "set it in one of them",
                    on_key=True,
                )

    # ---- names that must be those of something ---------------------------------------------------

    def names(self, read: Read) -> None:
        axes = tuple(read.points)
        for place in ("rows", "columns", "over"):
            for number, axis in enumerate(getattr(self.content.table, place)):
                self._known(("table", place, number), axis, axes, "an axis")
        for number, metric in enumerate(self.content.table.metrics):
            if (told := metric_paths.complaint(metric, catalog.suggest)) is not None:
                self.complain(("table", "metrics", number), *told)
        if not self.problems:
            self._rules(read)
            self._paper(read)

    def _known(
        self, path: tuple[str | int, ...], name: str, among: Sequence[str], what: str
    ) -> None:
        if name not in among:
            near = catalog.suggest(name, tuple(among))
            self.complain(
                path,
                f"{name!r} is not {what}",
                f'did you mean "{near}"?' if near else f"there are {', '.join(among)}",
            )

    def _rules(self, read: Read) -> None:
        every = [
            dict(zip(read.points, chosen, strict=True))
            for chosen in itertools.product(*read.points.values())
        ]
        for number, rule in enumerate(self.content.exclude):
            self._rule(read, ("exclude", number), rule, every, "leaves out no cell")
        kept = list(read.combinations())
        for number, adjustment in enumerate(self.content.adjust):
            self._rule(
                read, ("adjust", number, "cells"), adjustment.cells, kept, "is about no cell"
            )

    def _rule(
        self,
        read: Read,
        path: tuple[str | int, ...],
        rule: Mapping[str, Any],
        cells: Sequence[Mapping[str, Point]],
        idle: str,
    ) -> None:
        keys = tuple(
            dict.fromkeys(
                [
                    *read.points,
                    *(
                        key
                        for points in read.points.values()
                        for point in points
                        for key in point.sets
                    ),
                ]
            )
        )
        if not self.read.is_own(path):  # it may be about cells that are not in this sweep
            return
        for key in rule:
            self._known((*path, key), key, keys, "an axis, or a key that one sets")
        if rule.keys() <= set(keys) and not any(_matches(cell, rule) for cell in cells):
            self.complain(path, idle, "compare its values with those of the axes", on_key=True)

    def _paper(self, read: Read) -> None:
        if not self.read.is_own(("paper",)):
            return
        rows, columns = read.labels()
        for place, labels in (("row", rows), ("column", columns)):
            for number, value in enumerate(self.content.paper):
                self._known(
                    ("paper", number, place),
                    getattr(value, place),
                    labels,
                    f"the label of a {place}",
                )
        places = read.places()
        for number, value in enumerate(self.content.paper):
            if value.row in rows and value.column in columns:
                self._refuse_left_out(number, value, places)
        for number, value in enumerate(self.content.paper):
            self._known(
                ("paper", number, "metric"),
                value.metric,
                read.table.metrics,
                "one of the table's metrics",
            )

    def _refuse_left_out(
        self, number: int, value: PaperValue, places: Sequence[tuple[str, str]]
    ) -> None:
        if (value.row, value.column) not in places:
            self.complain(
                ("paper", number),
                f"{value.row}, {value.column} is no cell of this sweep: exclude leaves it out",
                "leave the number out, or the rule of exclude",
            )
