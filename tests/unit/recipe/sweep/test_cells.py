"""A sweep is all combinations of its axes; a cell is known by the content of its recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.errors import Incompatible, RecipeInvalid
from kdcli.recipe.resolve import Flag
from kdcli.recipe.sweep.cells import load_sweep
from tests.unit.recipe.conftest import told

SWEEP = """\
title = "digits"
base = "student.toml"

[axes]
"method.name" = ["none", "kd", "skd"]
seed = [0, 1]
pair = [
  {label = "large->small", set = {"teacher.recipe" = "teacher.toml", "student.name" = "cnn-small"}},
  {label = "large->large", set = {teacher.recipe = "teacher.toml", student.name = "cnn-large"}},
]
"""
TABLE = """
[table]
rows = ["pair"]
columns = ["method.name"]
metrics = ["test.accuracy", "gap.entropy"]
"""


@pytest.fixture
def sweep(write):
    write("s/teacher.toml", 'extends = "quickstart-teacher"\n')
    write("s/student.toml", 'extends = "quickstart"\n')

    def load(text, **arguments):
        return load_sweep(write("s/sweep.toml", text), **arguments)

    return load


def problems(sweep, text):
    with pytest.raises(RecipeInvalid) as caught:
        sweep(text)
    return told(caught.value)


def test_pages_of_cells_are_drawn_later_unless_they_say_when(sweep, write):
    assert {cell.resolved.recipe.report.html for cell in sweep(SWEEP).cells} == {"later"}
    known = {cell.id for cell in sweep(SWEEP).cells}
    for value in (True, False):
        told_when = sweep(SWEEP, sets=[f"report.html={str(value).lower()}"]).cells
        assert {cell.resolved.recipe.report.html for cell in told_when} == {value}
        assert {cell.id for cell in told_when} == known
    write("s/student.toml", 'extends = "quickstart"\n[report]\nhtml = true\n')
    assert all(cell.resolved.recipe.report.html is True for cell in sweep(SWEEP).cells)


def test_cells_are_all_combinations_in_order(sweep):
    found = sweep(SWEEP + TABLE)
    assert len(found.cells) == 12
    first, second, last = found.cells[0], found.cells[1], found.cells[-1]
    assert first.labels == {"method.name": "none", "seed": "0", "pair": "large->small"}
    assert (second.labels["pair"], last.labels["method.name"]) == ("large->large", "skd")
    assert (found.table.rows, found.table.columns, found.table.over) == (
        ("pair",),
        ("method.name",),
        ("seed",),
    )


def test_cells_resolve_to_what_they_set(sweep):
    cells = sweep(SWEEP).cells
    recipe = cells[-1].resolved.recipe
    assert (recipe.method.name, recipe.seed, recipe.student.name) == ("skd", 1, "cnn-large")
    assert cells[-1].resolved.origins["seed"] == "s/sweep.toml:6"


def test_a_method_without_teachers_goes_without_the_bases(sweep, write):
    write(
        "s/teacher.toml",
        'extends = "quickstart-teacher"\n[data]\nname = "synthetic"\nclasses = 20\n',
    )
    none, kd = sweep(
        'base = "student.toml"\n[axes]\n"method.name" = ["none", "kd"]\n"teacher.recipe" = '
        '["teacher.toml"]\n'
    ).cells
    assert (none.resolved.recipe.teacher, len(kd.resolved.recipe.teacher)) == ((), 1)
    assert none.resolved.recipe.report.reference == kd.resolved.recipe.teacher[0].recipe
    # a baseline on other data would be none
    assert none.resolved.recipe.data == kd.resolved.recipe.data
    assert none.resolved.recipe.data.classes == 20


def test_cells_of_equal_content_are_one_run(sweep):
    found = sweep(SWEEP)
    runs = found.runs()
    assert len(runs) == 12
    assert all(len(cell_id) == 12 for cell_id in runs)
    twice = sweep('base="student.toml"\n[axes]\nseed=[0, {label="again", set={seed=0}}]\n')
    assert [len(cells) for cells in twice.runs().values()] == [2]


def test_ids_depend_on_content_alone(sweep, write):
    ids = [cell.id for cell in sweep(SWEEP).cells]
    assert [
        cell.id
        for cell in sweep("# moved\n\n" + SWEEP.replace("large->small", "l->s") + TABLE).cells
    ] == ids
    write("s/teacher.toml", 'extends = "quickstart-teacher"\nseed = 5\n')
    changed = [cell.id for cell in sweep(SWEEP).cells]
    # a baseline's too: its gap is measured to that teacher
    assert [old == new for old, new in zip(ids, changed, strict=True)] == [False] * 12


def test_exclusion_by_value_and_by_label(sweep):
    text = SWEEP.replace(
        "[axes]",
        (
            'exclude = [{"method.name" = "none", pair = "large->large"}, {seed = 1, '
            '"student.name" = "cnn-large"}]\n[axes]'
        ),
    )
    cells = sweep(text).cells
    assert len(cells) == 12 - 2 - 2
    assert not any(
        cell.labels["method.name"] == "none" and cell.labels["pair"] == "large->large"
        for cell in cells
    )


def test_options_of_one_method_only(sweep):
    text = """
base = "student.toml"
[axes]
method = [
  {label = "kd", set = {"method.name" = "kd"}},
  {label = "skd, unit", set = {"method.name" = "skd", "method.align" = "unit"}},
]
"""
    found = sweep(text)
    found.check()
    assert [cell.resolved.recipe.method.name for cell in found.cells] == ["kd", "skd"]
    assert found.cells[1].resolved.recipe.method.align == "unit"


ADJUSTED = """
base = "student.toml"
[axes]
"method.name" = ["kd", "dkd"]
pair = [
  {label = "small", set = {"student.name" = "cnn-small", "optim.lr" = 0.01}},
  {label = "large", set = {"student.name" = "cnn-large"}},
]
[[adjust]]
cells = {"method.name" = "dkd"}
set = {"method.beta" = 6}
[[adjust]]
cells = {"method.name" = "dkd", pair = "large"}
set = {"method.beta" = 2, method.warmup_epochs = 5}
[[adjust]]
cells = {"student.name" = "cnn-small"}
set = {"optim.lr" = 0.02}
"""


def test_adjustments_set_keys_of_the_cells_that_they_name_over_the_axes_and_over_each_other(sweep):
    found = sweep(ADJUSTED)
    found.check()  # beta is no option of kd
    recipes = {tuple(cell.labels.values()): cell.resolved.recipe for cell in found.cells}
    assert {cell: recipe.method.beta for cell, recipe in recipes.items() if cell[0] == "dkd"} == {
        ("dkd", "small"): 6,
        ("dkd", "large"): 2,
    }
    assert recipes["dkd", "large"].method.warmup_epochs == 5
    assert [recipes["kd", pair].optim.lr for pair in ("small", "large")] == [0.02, 0.01]
    assert found.cells[3].resolved.origins["method.beta"] == "s/sweep.toml:14"


def test_an_adjusted_cell_is_the_run_of_the_recipe_that_it_comes_to(sweep):
    plain = 'base = "student.toml"\n[axes]\n"method.name" = ["skd"]\n"method.weight" = [0.5]\n'
    adjusted = (
        'base = "student.toml"\n[axes]\n"method.name" = ["skd"]\n[[adjust]]\ncells = '
        '{"method.name" = "skd"}\nset = {"method.weight" = 0.5}\n'
    )
    assert sweep(plain).cells[0].id == sweep(adjusted).cells[0].id


def test_an_adjustment_may_name_a_teacher_beside_the_sweep(sweep, write):
    write("s/other.toml", 'extends = "teacher.toml"\nseed = 7\n')
    text = (
        'base = "student.toml"\n[axes]\nseed = [0, 1]\n[[adjust]]\ncells = {seed = 1}\nset = '
        '{"teacher.recipe" = "other.toml"}\n'
    )
    assert [cell.resolved.recipe.teacher[0].recipe for cell in sweep(text).cells][
        1
    ] == "s/other.toml"


def test_overrides_reach_every_cell(sweep):
    found = sweep(SWEEP, sets=["train.epochs=2"], flags=[Flag("--device", "runtime.device", "cpu")])
    assert {cell.resolved.recipe.train.epochs for cell in found.cells} == {2}


def test_teachers_can_be_swept(sweep):
    found = sweep(
        'base = "teacher.toml"\n[axes]\nseed = [0, 1]\n"model.name" = ["cnn-large", "cnn-small"]\n'
    )
    assert {cell.resolved.recipe.KIND for cell in found.cells} == {"train-teacher"}


@pytest.mark.parametrize(
    ("text", "key", "says", "suggests", "place"),
    [
        ("[axs]", "axs", "unknown key", '"axes"', "2:2"),
        ("[axes]\nseed = 3", "axes.seed", "must be a list, got 3", "", "3:8"),
        ("[axes]\nseed = []", "axes.seed", "at least one value", "", "3:8"),
        ("[axes]\nseed = [1, 1]", "axes.seed", "two of its values are called '1'", "", "3:8"),
        ("[axes]\npair = [1]", "axes.pair.0", "needs a label and a set", "label =", "3:9"),
        ("[axes]\nseed = [{lable = 'x'}]", "axes.seed.0.lable", "unknown key", '"label"', "3:10"),
        (
            "[axes]\nx = [{label = 'x', set = {'optimizer.lr' = 1}}]",
            "axes.x.0.set.optimizer.lr",
            "no section of a recipe",
            '"optim"',
            "3:27",
        ),
        (
            "[axes]\nseed = [1]\nx = [{label = 'x', set = {seed = 1}}]",
            "axes.x",
            "set by the axis seed too",
            "",
            "4:1",
        ),
        (
            "[axes]\nseed = [1]\n[table]\nrows = ['sede']",
            "table.rows.0",
            "'sede' is not an axis",
            '"seed"',
            "5:9",
        ),
        (
            "[axes]\nseed = [1]\n[table]\nmetrics = ['test.acuracy']",
            "table.metrics.0",
            "is not a number",
            '"test.accuracy"',
            "5:12",
        ),
        (
            "[axes]\nseed = [1]\n[table]\nmetrics = ['test.entrpy@4']",
            "table.metrics.0",
            "is not a number",
            '"test.entropy@4"',
            "5:12",
        ),
        (
            "[axes]\nseed = [1]\n[table]\nmetrics = ['xyzxyzxyz']",
            "table.metrics.0",
            "is not a number",
            "train_losses.TERM",
            "5:12",
        ),
        (
            "[axes]\nseed = [1]\n[table]\nmetrics = ['test.accuracy@4']",
            "table.metrics.0",
            "test.accuracy has no temperature",
            "gap.free_energy",
            "5:12",
        ),
        (
            "[axes]\nseed = [1]\n[table]\nmetrics = ['gap.entropy@-1']",
            "table.metrics.0",
            "greater than 0, got '-1'",
            "gap.entropy@4",
            "5:12",
        ),
        (
            "exclude=[{sed=1}]\n[axes]\nseed = [1,2]",
            "exclude.0.sed",
            "'sed' is not an axis",
            '"seed"',
            "2:15",
        ),
        ("exclude=[{seed=3}]\n[axes]\nseed = [1,2]", "exclude.0", "leaves out no cell", "", "2:10"),
        (
            "[axes]\nseed = [1]\n[[adjust]]\ncells={seed=2}\nset={name='x'}",
            "adjust.0.cells",
            "is about no cell",
            "",
            "5:1",
        ),
        (
            "[axes]\nseed = [1]\n[[adjust]]\ncells={sed=1}\nset={name='x'}",
            "adjust.0.cells.sed",
            "'sed' is not an axis",
            '"seed"',
            "5:12",
        ),
        (
            "[axes]\nseed = [1]\n[[adjust]]\ncells={seed=1}\nset={'trian.epochs'=3}",
            "adjust.0.set.trian.epochs",
            "no section",
            '"train"',
            "6:6",
        ),
        ("[axes]\nseed = [1]\n[[adjust]]\ncells={seed=1}", "adjust.0.set", "missing", "", "4:3"),
        (
            "[axes]\nseed = [1]\n[[adjust]]\ncells={}\nset={}",
            "adjust.0.cells",
            "at least 1",
            "",
            "5:7",
        ),
        (
            "[axes]\nseed = [1]\n[[paper]]\nvalue = 1\nmetric='test.nll'",
            "paper.0.metric",
            "not one of the table's metrics",
            "",
            "6:8",
        ),
        (
            "[axes]\ntrain = [{label='a'}]\n[[paper]]\nvalue = 1\nrow='b'",
            "paper.0.row",
            "not the label of a row",
            "there are a",
            "6:5",
        ),
        (
            (
                "exclude=[{seed=2, train='a'}]\n[axes]\nseed = [1,2]\n"
                "train = [{label='a'}, {label='b'}]\n"
                "[table]\nrows=['train']\ncolumns=['seed']\n[[paper]]\nvalue = 1\nrow='a'\ncolumn='2'"
            ),
            "paper.0",
            "a, 2 is no cell of this sweep",
            "leave the number out",
            "9:3",
        ),
    ],
)
def test_problems_of_a_sweep_are_placed_too(sweep, text, key, says, suggests, place):
    problem, hint, where = problems(sweep, f'base = "student.toml"\n{text}')[key]
    assert says in problem
    assert suggests in (hint or "")
    assert where == f"s/sweep.toml:{place}"


def test_a_temperature_that_the_runs_do_not_report_is_refused_before_any_of_them(sweep):
    text = """base = "student.toml"
    [axes]
    seed = [1]
    [table]
    metrics = ["test.entropy@2", "gap.entropy@4", "gap.entropy@1"]
    """
    with pytest.raises(RecipeInvalid) as caught:
        sweep(text).check()
    (problem,) = caught.value.diagnostics
    assert "test.entropy@2 needs 2 among report.temperatures" in problem.problem
    load_sweep("s/sweep.toml", sets=["report.temperatures=[2, 4]"]).check()


def test_a_base_that_is_not_there(sweep):
    assert (
        problems(sweep, 'base = "studnet.toml"\n[axes]\nseed = [1]')["base"][2]
        == "s/sweep.toml:1:8"
    )


def test_check_tells_the_problems_of_all_cells_where_the_sweep_sets_them(sweep):
    found = sweep('base = "student.toml"\n[axes]\n"method.name" = ["kd", "skdd"]\nseed = [0, -1]\n')
    with pytest.raises(RecipeInvalid) as caught:
        found.check()
    assert {str(item.where): item.key for item in caught.value.diagnostics} == {
        "s/sweep.toml:3:24": "method.name",
        "s/sweep.toml:4:12": "seed",
    }


def test_check_raises_a_refusal_that_all_share_as_itself(sweep):
    with pytest.raises(Incompatible, match="cifar10 has 3×32×32"):
        sweep('base = "student.toml"\n[axes]\n"data.name" = ["cifar10"]\n').check()


SMALLER = """\
extends = "sweep.toml"

[set]
"train.epochs" = 2

[axes]
"method.name" = ["none", "kd"]
"""
PAPER = """
[[paper]]
row = "large->small"
column = "skd"
value = 0.5

[[paper]]
row = "large->small"
column = "kd"
value = 0.4
"""


def test_a_sweep_extends_another_axis_by_axis(sweep, write):
    sweep(SWEEP + TABLE + PAPER)
    found = load_sweep(write("s/smaller.toml", SMALLER))
    assert found.axes["method.name"] == ("none", "kd")
    assert (found.axes["seed"], len(found.cells)) == (("0", "1"), 8)
    assert (found.title, found.table.rows) == ("digits", ("pair",))
    assert {cell.resolved.recipe.train.epochs for cell in found.cells} == {2}
    # skd is not in it any more, so neither is what was published of it
    assert [value.column for value in found.paper] == ["kd"]


def test_a_sweep_extends_one_of_another_folder_with_the_recipes_beside_that(sweep, write):
    sweep(SWEEP)
    found = load_sweep(write("t/smaller.toml", SMALLER.replace("sweep.toml", "../s/sweep.toml")))
    (teacher,) = found.cells[-1].resolved.recipe.teacher
    assert Path(teacher.recipe).resolve() == Path("s/teacher.toml").resolve()
    assert found.base.name == "student.toml"


def test_what_every_cell_sets_is_under_what_axes_set(sweep):
    found = sweep(SWEEP + "\n[set]\nseed = 7\n'train.batch_size' = 32\n")
    recipes = [cell.resolved.recipe for cell in found.cells]
    assert {recipe.seed for recipe in recipes} == {0, 1}
    assert {recipe.train.batch_size for recipe in recipes} == {32}


@pytest.mark.parametrize(
    ("text", "key", "says", "place"),
    [
        (SMALLER.replace("train.", "trian."), "set.trian.epochs", "no section", "s/smaller.toml:4"),
        (SMALLER + "seed = 3\n", "axes.seed", "list", "s/smaller.toml:8"),
        ('extends = "gone.toml"\n', "extends", "there is no sweep", "s/smaller.toml:1"),
        ('extends = "smaller.toml"\n', "extends", "in a circle", "s/smaller.toml:1"),
        (SMALLER + PAPER, "paper.0.column", "'skd' is not the label", "s/smaller.toml:11"),
        (SMALLER + "[[exclude]]\nseed = 9\n", "exclude.0", "leaves out", "s/smaller.toml:8"),
        ('extends = "wrong.toml"\n', "axes.seed", "at least one value", "s/wrong.toml:3"),
    ],
)
def test_problems_of_an_extending_sweep_stand_in_the_file_that_has_them(
    sweep, write, text, key, says, place
):
    sweep(SWEEP + TABLE)
    write("s/wrong.toml", 'base = "student.toml"\n[axes]\nseed = []\n')
    with pytest.raises(RecipeInvalid) as caught:
        load_sweep(write("s/smaller.toml", text))
    (found,) = [each for each in caught.value.diagnostics if each.key == key]
    assert says in found.problem
    assert f"{found.where.file}:{found.where.line}" == place
