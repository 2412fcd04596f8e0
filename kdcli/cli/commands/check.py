"""`kd check`: recipes and sweeps validated and printed, every value with its origin, without torch;
with --data every file of their data is opened. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli.console import Environment
from kdcli.cli.options import Sets
from kdcli.cli.output.envelope import ErrorItem, Outcome, items_of
from kdcli.cli.output.errors import show_error
from kdcli.cli.text import columns
from kdcli.errors import Exit, Interrupted, KdError, Terminated, UsageError, Where
from kdcli.files import is_folder, parse_toml
from kdcli.results.data_report import DataReport

if TYPE_CHECKING:
    from kdcli.recipe.schema import DataSection

NAME = "check"
EXAMPLES = """
kd check quickstart -s train.epochs=3 -s optim.lr=0.1
kd check quickstart quickstart-teacher --json -q | jq '.data[].values'
kd check --data quickstart      # every file of its data; of a folder, too
"""

Recipes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE",
        help="Recipe or sweep files, or names of shipped ones; with --data a folder, too.",
        show_default=False,
        autocompletion=completion.recipes,
    ),
]
WithData = Annotated[
    bool,
    typer.Option(
        "--data",
        help="Open every file of the data, and list all that is wrong with them.",
    ),
]


@dataclass(frozen=True, slots=True)
class CheckedCell:
    """A cell of a sweep: the run that it stands for."""

    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CheckedRecipe:
    """A valid recipe, a valid sweep, or (kind "data") a folder of pictures. values, origins: by
    dotted key; cells: of a sweep; data: what --data found.
    """

    recipe: str
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cells: tuple[CheckedCell, ...] = ()
    data: tuple[DataReport, ...] = ()


def run(
    env: Environment,
    recipe: Recipes = None,
    *,
    data: WithData = False,
    sets: Sets = None,
) -> Outcome:
    """Validate recipes; print each value with its origin.

    Nothing is trained.
    Of a sweep, every cell is validated and the cells are listed.
    With --data, the files of the data are opened instead, all of them: what is wrong with any is
    listed at once.
    """
    if not recipe and not (data and sets):
        raise UsageError(
            "kd check needs a recipe, or with --data a folder of pictures, or -s data.KEY=VALUE",
            hint="kd check quickstart",
        )
    checked: list[CheckedRecipe] = []
    errors: list[ErrorItem] = []
    for name in recipe or [""]:
        try:
            if data:
                checked.append(_check_data(env, name, tuple(sets or ())))
                errors += _problems(checked[-1])
            else:
                checked.append(_check(env, name, tuple(sets or ())))
        except (Interrupted, Terminated):
            raise
        except KdError as error:
            show_error(error, env)
            errors += items_of(error)
    return Outcome(checked, errors=tuple(errors), exit_code=Exit.USAGE if errors else Exit.OK)


def _check(env: Environment, name: str, sets: tuple[str, ...]) -> CheckedRecipe:
    from kdcli.recipe import shipped

    return (_check_sweep if is_sweep(shipped.locate(name)) else _check_recipe)(env, name, sets)


def is_sweep(path: Path) -> bool:
    """Tells whether a file is a sweep."""
    from kdcli.recipe import shipped

    try:
        return shipped.is_sweep(parse_toml(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError):
        return False  # the resolver will say what is wrong with it, and where


def _check_recipe(env: Environment, name: str, sets: tuple[str, ...]) -> CheckedRecipe:
    from kdcli.recipe.resolve import kind_of, resolve
    from kdcli.recipe.writing import dump

    kind = kind_of(name)
    resolved = resolve(kind, file=name, sets=sets, environ=env.environ)
    env.write(dump(resolved.recipe, resolved.origins))
    _valid(env, f"{name}: a valid recipe of kd {kind}", resolved.notes)
    values = {
        key: _value_at(resolved.recipe.model_dump(mode="json"), key) for key in resolved.origins
    }
    return CheckedRecipe(name, kind, values, resolved.origins, resolved.notes)


def _value_at(content: Any, key: str) -> Any:
    """The value of a dotted key; [teacher] has no number in keys where it is one."""
    for part in key.split("."):
        if isinstance(content, list):
            if part.isdigit():
                content = content[int(part)]
                continue
            content = content[0]
        content = content.get(part)
    return content


def _check_sweep(env: Environment, name: str, sets: tuple[str, ...]) -> CheckedRecipe:
    from kdcli.recipe.sweep.cells import load_sweep

    sweep = load_sweep(name, sets=sets)
    sweep.check()
    rows = [("cell", *sweep.axes), *((cell.id, *cell.labels.values()) for cell in sweep.cells)]
    env.write("\n".join(columns(rows)))
    _valid(
        env,
        f"{name}: a valid sweep of kd {sweep.kind}, {formatting.plural(len(sweep.runs()), 'run')}",
        (),
    )
    return CheckedRecipe(
        name, "sweep", cells=tuple(CheckedCell(cell.id, cell.labels) for cell in sweep.cells)
    )


def _valid(env: Environment, text: str, notes: tuple[str, ...]) -> None:
    env.report(("✓", "green"), f" {text}")
    for note in notes:
        env.report(f"  note  {note}")


# ---- the data ------------------------------------------------------------------------------------


def _check_data(env: Environment, name: str, sets: tuple[str, ...]) -> CheckedRecipe:
    kind, sections = _data_sections(env, name, sets)
    env.progress(f"opening every file of {name or 'the data'} ...")
    from kdcli import jobs

    reports = tuple(jobs.check_data(section) for section in sections)
    for report in reports:
        _show_data(env, report)
    return CheckedRecipe(name, kind, data=reports)


def _data_sections(
    env: Environment, name: str, sets: tuple[str, ...]
) -> tuple[str, list[DataSection]]:
    """The different [data] sections that a recipe, a sweep, a folder or overrides alone stand for,
    and which of these it is.
    """
    from kdcli import tasks
    from kdcli.recipe import shipped
    from kdcli.recipe.resolve import kind_of, resolve

    if not name or is_folder(name):
        values = {"data.name": "image-folder", "data.path": name} if name else {}
        given = [each.partition("=")[2] for each in sets if each.startswith("data.name=")]
        if given and not (task := tasks.of_data(given[-1].strip("\"'"))).pictures:
            values["model.name"] = next(iter(tasks.networks(task)))  # of whichever: none is built
        resolved = resolve("train-teacher", values=values, sets=sets, environ=env.environ)
        return "data", [resolved.recipe.data]
    if is_sweep(shipped.locate(name)):
        from kdcli.recipe.sweep.cells import load_sweep

        sweep = load_sweep(name, sets=sets)
        recipes = [cells[0].resolved.recipe for cells in sweep.runs().values()]
        kind = "sweep"
    else:
        kind = kind_of(name)
        recipes = [resolve(kind_of(name), file=name, sets=sets, environ=env.environ).recipe]
    different = {
        recipe.data.model_dump_json(include={"name", "root", *recipe.data.own_keys()}): recipe.data
        for recipe in recipes
    }
    return kind, list(different.values())


def _show_data(env: Environment, report: DataReport) -> None:
    """A dataset in a line, all that is wrong with it, and what a run would say of it."""
    name = f"{report.data} {report.path}" if report.path else report.data
    parts = ((report.train, "train"), (report.val, "val"), (report.test, "test"))
    counts = [f"{formatting.thousands(size)} {part}" for size, part in parts if size]
    sizes = " · ".join([f"{report.classes} classes", *counts])
    lines = [f"{name} · {sizes}" if report.classes else name]
    hint = ""
    for problem in report.problems:
        lines.append(f"  ✗ {problem.message}")
        if problem.hint != hint:  # what is said of many files in a row is said once
            lines.append(f"      {problem.hint}")
        hint = problem.hint
    lines += [f"  note  {note}" for note in report.notes]
    env.write("\n".join(lines))
    if report.problems:
        problems = formatting.plural(len(report.problems), "problem")
        env.report(("✗", "red"), f" {name}: {problems}")
    else:
        env.report(("✓", "green"), f" {name}: every file can be read")


def _problems(checked: CheckedRecipe) -> list[ErrorItem]:
    return [
        ErrorItem(
            "BAD_DATA",
            problem.message,
            problem.hint,
            Where(file=problem.file) if problem.file else None,
        )
        for report in checked.data
        for problem in report.problems
    ]
