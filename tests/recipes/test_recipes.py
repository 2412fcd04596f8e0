"""Every file in recipes/ does what its comment says, as far as that can be known without training
for days.
"""

from __future__ import annotations

import copy
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from kdcli.errors import KdError
from kdcli.jobs import distill, train_teacher
from kdcli.recipe import shipped
from kdcli.recipe.resolve import resolve
from kdcli.recipe.schema import DistillRecipe
from tests.recipes.sweeps import covering, sweep_of

EVERYTHING = shipped.ls()
RECIPES = [item for item in EVERYTHING if item.kind in {"train-teacher", "distill"}]
SWEEPS = [item for item in EVERYTHING if item.kind == "sweep"]
BASES = [item for item in EVERYTHING if item.kind == "base"]

# said even where they follow from a default or from the teacher: what a file is called by
SAID_ANYWAY = {("method", "name"), ("student", "name"), ("data", "name")}


def by_name(items):
    return [pytest.param(item, id=item.name) for item in items]


def resolved(item: shipped.Shipped, path: Path | None = None):
    values = {"data.path": "pictures"} if item.name.startswith("imagenet/") else {}
    return resolve(item.kind, file=path or item.path, values=values, environ={}).recipe


def leaves(table: dict[str, Any], above: tuple[str, ...] = ()):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key)


def without(table: dict[str, Any], leaf: tuple[str, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(table)
    inner = changed
    for key in leaf[:-1]:
        inner = inner[key]
    del inner[leaf[-1]]
    return changed


@pytest.mark.parametrize("item", by_name(RECIPES))
def test_recipe_is_valid(item):
    recipe = resolved(item)
    assert item.kind == recipe.KIND
    if isinstance(recipe, DistillRecipe):
        assert recipe.teacher


@pytest.mark.parametrize("item", by_name(EVERYTHING))
def test_first_lines_say_what_it_is_and_how_to_run_it(item):
    text = item.path.read_text(encoding="utf-8")
    head = [line for line in text.split("\n\n")[0].splitlines() if line.startswith("#")]
    assert item.summary.endswith((".", ":"))
    commands = [
        match for line in head if (match := re.fullmatch(r"#   kd (\S+) (\S+)( .*)?", line))
    ]
    if item.kind == "base":
        assert not commands
    else:
        assert (commands[0][1], commands[0][2]) == (item.kind, item.name)


@pytest.mark.parametrize("item", by_name(RECIPES))
def test_recipe_says_nothing_that_is_so_anyway(item, tmp_path):
    folder = shutil.copytree(shipped.folder(), tmp_path / "recipes")
    path = folder / f"{item.name}.toml"
    own = tomllib.loads(path.read_text(encoding="utf-8"))
    before = resolved(item, path)
    for leaf in set(leaves(own)) - SAID_ANYWAY:
        path.write_text(tomli_w.dumps(without(own, leaf)), encoding="utf-8")
        try:
            same = resolved(item, path) == before
        except KdError:
            same = False
        assert not same, f"{'.'.join(leaf)} could be left out"


def test_bases_are_extended():
    extended = set()
    for item in EVERYTHING:
        parent = tomllib.loads(item.path.read_text(encoding="utf-8")).get("extends")
        if parent is not None:
            extended.add((item.path.parent / parent).resolve())
    whole = {item.path.resolve() for item in SWEEPS}  # which a smaller one may extend
    assert {item.path.resolve() for item in BASES} == extended - whole


@pytest.mark.parametrize("item", by_name(SWEEPS))
def test_sweep_is_valid(item):
    sweep = sweep_of(item)
    replace(sweep, cells=tuple(covering(sweep.cells))).check()
    assert len(sweep.cells) > 1


@pytest.mark.slow
@pytest.mark.parametrize("item", by_name(SWEEPS))
def test_every_cell_of_a_sweep_is_valid(item):
    sweep = sweep_of(item)
    sweep.check()
    assert len(sweep.runs()) > 1


def test_quickstart_trains_a_teacher_and_a_student_that_learn(tmp_path):
    teacher = train_teacher(
        "quickstart-teacher",
        out=tmp_path,
        epochs=2,
        name="teacher",
        overrides={"report.html": False},
    )
    student = distill("quickstart", out=tmp_path, epochs=2, teacher=str(tmp_path / "teacher"))
    assert teacher is not None
    assert student is not None
    assert student.parameters < teacher.parameters / 10
    for result in (teacher, student):
        assert result.test.accuracy > 0.3  # chance is 0.1
    assert (Path(student.run) / "report.html").is_file()
