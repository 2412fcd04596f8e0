"""`kd check`: recipes and sweeps validated and printed, every value with its origin. Nothing is
trained, torch is not imported.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli.console import Environment
from kdcli.cli.options import Sets
from kdcli.cli.output.envelope import ErrorItem, Outcome, items_of
from kdcli.cli.output.errors import show_error
from kdcli.cli.text import columns
from kdcli.errors import Exit, KdError

NAME = "check"
EXAMPLES = """
kd check quickstart
kd check quickstart -s train.epochs=3 -s optim.lr=0.1
kd check quickstart quickstart-teacher --json -q | jq '.data[].values'
"""

Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE",
        help="Recipe or sweep files, or names of shipped ones.",
        autocompletion=completion.recipes,
    ),
]


@dataclass(frozen=True, slots=True)
class CheckedCell:
    """A cell of a sweep: the run that it stands for."""

    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CheckedRecipe:
    """A valid recipe, or a valid sweep. values, origins: by dotted key; cells: of a sweep."""

    recipe: str
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cells: tuple[CheckedCell, ...] = ()


def run(env: Environment, recipe: Recipes, *, sets: Sets = None) -> Outcome:
    """Validate recipes; print each value with its origin.

    Nothing is trained.
    Of a sweep, every cell is validated and the cells are listed.
    """
    checked: list[CheckedRecipe] = []
    errors: list[ErrorItem] = []
    for name in recipe:
        try:
            checked.append(_check(env, name, tuple(sets or ())))
        except KdError as error:
            show_error(error, env)
            errors += items_of(error)
    return Outcome(checked, errors=tuple(errors), exit_code=Exit.USAGE if errors else Exit.OK)


def _check(env: Environment, name: str, sets: tuple[str, ...]) -> CheckedRecipe:
    from kdcli.recipe import shipped

    return (_check_sweep if is_sweep(shipped.locate(name)) else _check_recipe)(env, name, sets)


def is_sweep(path: Path) -> bool:
    """Tells whether a file says on which axes a recipe varies."""
    try:
        return "axes" in tomllib.loads(path.read_text(encoding="utf-8-sig"))
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
