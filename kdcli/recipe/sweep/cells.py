"""Sweeps: a base recipe and axes along which it varies; each cell is one run, and a table sets ours
beside the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdcli import trust
from kdcli.errors import Diagnostic, KdError, RecipeInvalid
from kdcli.recipe.reading import diagnostics
from kdcli.recipe.reading.layers import Kind, Layer
from kdcli.recipe.reading.overrides import Flag
from kdcli.recipe.resolve import Resolved, resolve
from kdcli.recipe.sweep import sweep_file
from kdcli.recipe.sweep.sweep_file import PaperValue, TableSection
from kdcli.recipe.writing import recipe_hash
from kdcli.results import metric_paths

__all__ = ["Cell", "PaperValue", "Sweep", "TableSection", "load_sweep"]

ID_LENGTH = 12


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    kind: which job it is. labels: what stands for it on each axis. sets: the recipe keys that it
    sets. sweep: the file of the sweep, which the user named.
    """

    kind: Kind
    base: Path
    labels: Mapping[str, str]
    sets: Mapping[str, Any]
    sweep: Path
    layer: Layer = field(repr=False)
    overrides: tuple[Sequence[str], Sequence[Flag]] = field(default=((), ()), repr=False)

    @cached_property
    def resolved(self) -> Resolved:
        """The cell's recipe. A method that takes no teacher goes without the base's, and pages are
        drawn later where nothing says when: to draw one takes longer than all that is not training.

        Raises:
            RecipeInvalid: the cell sets what the recipe cannot be. Others: as resolve().
        """
        sets, flags = self.overrides
        resolved = resolve(
            self.kind,
            file=self.base,
            values=self.layer,
            sets=sets,
            flags=flags,
            spare_teachers=True,
            tree=trust.Folder(self.sweep.parent),
        )
        report = resolved.recipe.report
        if "html" in report.model_fields_set:
            return resolved
        later = report.model_copy(update={"html": "later"})
        return replace(
            resolved,
            recipe=resolved.recipe.model_copy(update={"report": later}),
            origins={**resolved.origins, "report.html": "a run of a sweep"},
        )

    @cached_property
    def id(self) -> str:
        """Hash of everything that changes the result; cells with one id are one run."""
        return recipe_hash(self.resolved.recipe)[:ID_LENGTH]


@dataclass(frozen=True)
class Sweep:
    """A sweep. cells: all combinations, the last axis varying fastest. table: every axis is in its
    rows, columns or over.
    """

    path: Path
    title: str
    base: Path
    kind: Kind
    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    table: TableSection
    paper: tuple[PaperValue, ...]

    def runs(self) -> Mapping[str, tuple[Cell, ...]]:
        """Cells by id, in order: what has to be run, once each."""
        found: dict[str, tuple[Cell, ...]] = {}
        for cell in self.cells:
            found[cell.id] = (*found.get(cell.id, ()), cell)
        return found

    def check(self) -> None:
        """Resolves every cell, so that a sweep does not fail after hours.

        Raises:
            RecipeInvalid: with the problems of all cells, each once. Others: a problem that all
                failing cells share.
        """
        problems: dict[Diagnostic, None] = {}
        refusals: dict[str, KdError] = {}
        for cell in self.cells:
            try:
                cell.resolved  # noqa: B018  kept by the cell
            except RecipeInvalid as error:
                problems.update(dict.fromkeys(error.diagnostics))
            except KdError as error:
                refusals.setdefault(error.message, error)
        problems.update(dict.fromkeys(self._temperatures()))
        if problems or len(refusals) > 1:
            told = [
                Diagnostic("", error.message, error.hint, error.where)
                for error in refusals.values()
            ]
            raise diagnostics.refuse(str(self.path), [*problems, *told])
        if refusals:
            raise next(iter(refusals.values()))

    def _temperatures(self) -> Iterator[Diagnostic]:
        """What is wrong with the table's temperatures: a cell whose report has them not."""
        asked = {metric: metric_paths.split(metric)[1] for metric in self.table.metrics}
        for metric, tau in asked.items():
            without = [cell for cell in self.cells if not _reports(cell, tau)]
            if without:
                yield Diagnostic(
                    "table.metrics",
                    f"{metric} needs {tau:g} among report.temperatures",
                    f"-s 'report.temperatures=[1, {tau:g}]', or in the base recipe",
                )


def _reports(cell: Cell, tau: float | None) -> bool:
    if tau is None or tau == 1.0:
        return True
    try:
        return tau in cell.resolved.recipe.report.temperatures
    except KdError:  # said of the cell itself
        return True


def load_sweep(path: Path | str, *, sets: Sequence[str] = (), flags: Sequence[Flag] = ()) -> Sweep:
    """Reads a sweep; cells are resolved when they are asked for.

    Args:
        path: a file, or the name of a shipped one (tables/...).
        sets, flags: overrides of every cell, as `resolve` takes them.

    Raises:
        NotFound: no such sweep. RecipeInvalid: with all problems of the sweep file itself.
    """
    read = sweep_file.read(path)
    cells = tuple(
        Cell(
            read.kind,
            read.base,
            {axis: point.label for axis, point in chosen.items()},
            plain,
            read.path,
            layer,
            (sets, flags),
        )
        for chosen in read.combinations()
        for plain, layer in [read.settings(chosen)]
    )
    labels = {axis: tuple(point.label for point in points) for axis, points in read.points.items()}
    return Sweep(
        read.path,
        read.content.title or read.path.stem,
        read.base,
        read.kind,
        labels,
        cells,
        read.table,
        read.paper(),
    )
