"""What other tools train through in silence must stop here: exit code 2, the key, its place, and
what to write instead.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from kdcli.recipe.resolve import Flag
from tests.unit.recipe.conftest import refused, told

RECIPE = """\
[student]
name = "cnn-small"
[teacher]
recipe = "quickstart-teacher"
"""


def problem(write, text, **arguments):
    """The only problem of the recipe above with some lines more: key, problem, hint, place."""
    problems = told(refused(file=write("r.toml", RECIPE + text), **arguments))
    ((key, found),) = problems.items()
    return key, *found


@pytest.mark.parametrize(
    ("text", "key", "says", "suggests", "place"),
    [
        # sections that a misspelling would switch off
        ('[scheduler]\nname = "cosine"', "scheduler", "unknown key", '"schedule"', "5:2"),
        ('[schedular]\nname = "cosine"', "schedular", "unknown key", '"schedule"', "5:2"),
        ("[optimizer]\nlr = 0.1", "optimizer", "unknown key", '"optim"', "5:2"),
        ("[lr_scheduler]", "lr_scheduler", "unknown key", '"schedule"', "5:2"),
        # keys that would keep their defaults
        (
            "[method]\ntemprature = 2",
            "method.temprature",
            "unknown option of skd",
            '"temperature"',
            "6:1",
        ),
        (
            "[method]\nname='skd'\nkd_temprature = 2",
            "method.kd_temprature",
            "unknown option of skd",
            '"temperature"',
            "7:1",
        ),
        ("[train]\nepoch = 3", "train.epoch", "unknown key", '"epochs"', "6:1"),
        ("[train]\nlr = 3.0", "train.lr", "unknown key", '"optim.lr"', "6:1"),
        ("[data]\naugment = {flipp = true}", "data.augment.flipp", "unknown key", '"flip"', "6:12"),
        # a teacher that would be trained
        (
            "[method]\nrequire_grad = true",
            "method.require_grad",
            "unknown option of skd",
            "teachers are always frozen",
            "6:1",
        ),
        # options that belong to something else
        (
            "[method]\nname='kd'\nalign='unit'",
            "method.align",
            "unknown option of kd",
            "align belongs to skd, not to kd",
            "7:1",
        ),
        (
            "[optim]\nname='adamw'\nmomentum=0.9",
            "optim.momentum",
            "unknown key",
            "momentum belongs to sgd, not to adamw",
            "7:1",
        ),
        (
            "[schedule]\nmilestones=[1]",
            "schedule.milestones",
            "unknown key",
            "belongs to multistep, not to cosine",
            "6:1",
        ),
        (
            "[data]\nclasses = 5",
            "data.classes",
            "unknown option of digits",
            "classes belongs to synthetic, not to digits",
            "6:1",
        ),
        # values out of range
        (
            "[method]\ntemperature = -4",
            "method.temperature",
            "must be greater than 0, got -4",
            "",
            "6:15",
        ),
        ("[optim]\nlr = nan", "optim.lr", "must be a finite number, got nan", "", "6:6"),
        ("[optim]\nlr = -inf", "optim.lr", "must be a finite number, got -inf", "", "6:6"),
        ("[method]\nweight = 1.5", "method.weight", "must be at most 1, got 1.5", "", "6:10"),
        ("[optim]\nmomentum = 1", "optim.momentum", "must be less than 1, got 1", "", "6:12"),
        ("[train]\nepochs = 0", "train.epochs", "must be at least 1, got 0", "", "6:10"),
        # values of the wrong type, which a lax reader would convert
        (
            '[train]\nepochs = "3"',
            "train.epochs",
            'must be a whole number, got "3"',
            "write 3, without quotes",
            "6:10",
        ),
        ("[train]\nepochs = 3.0", "train.epochs", "must be a whole number, got 3.0", "", "6:10"),
        ("[train]\nepochs = true", "train.epochs", "must be a whole number, got true", "", "6:10"),
        (
            '[optim]\nlr = ".05"',
            "optim.lr",
            'must be a number, got ".05"',
            "write 0.05, without quotes",
            "6:6",
        ),
        (
            '[train]\nkeep_best = "False"',
            "train.keep_best",
            'must be true or false, got "False"',
            "write false",
            "6:13",
        ),
        ("[train]\nselect = 1", "train.select", 'must be "last" or "best", got 1', "", "6:10"),
        (
            '[train]\nselect = "bests"',
            "train.select",
            'must be "last" or "best", got "bests"',
            '"best"',
            "6:10",
        ),
        ("[data]\nname = 3", "data.name", "must be text in quotes, got 3", "", "6:8"),
        ('[runtime]\ndevice = "gpu"', "runtime.device", 'cannot be "gpu"', "cuda:INDEX", "6:10"),
        (
            "[report]\ntemperatures = []",
            "report.temperatures",
            "is too short: at least 1, got 0",
            "",
            "6:16",
        ),
        (
            "[report]\ntemperatures = [1,\n 0]",
            "report.temperatures.1",
            "must be greater than 0, got 0",
            "",
            "7:2",
        ),
        (
            "[schedule]\nname='multistep'\nmilestones=3",
            "schedule.milestones",
            "must be a list, got 3",
            "",
            "7:12",
        ),
        ("[optim]\nname='adamw'\nbetas=[0.9]", "optim.betas", "is too short: got 1", "", "7:7"),
        # names of nothing
        (
            '[data]\nname = "cifar-100"',
            "data.name",
            "'cifar-100' is not a dataset",
            "'cifar100'",
            "6:8",
        ),
        ('[method]\nname = "skdd"', "method.name", "'skdd' is not a method", "'skd'", "6:8"),
        ('[optim]\nname = "adam"', "optim.name", "'adam' is not an optimiser", '"adamw"', "6:8"),
        (
            '[schedule]\nname = "cosin"',
            "schedule.name",
            "'cosin' is not a schedule",
            '"cosine"',
            "6:8",
        ),
        # rules about several keys
        ('[train]\nselect = "best"', "train.select", "chosen on held-out data", "", "6:10"),
        (
            "[data]\naugment = {crop = 2, resized_crop = true}",
            "data.augment.crop",
            "exclude each other",
            "",
            "6:19",
        ),
        (
            "[data]\naugment = {scale = [1, 0.5]}",
            "data.augment.scale",
            "ends (0.5) before it begins",
            "",
            "6:20",
        ),
    ],
)
def test_is_refused_where_it_stands(write, text, key, says, suggests, place):
    found, what, hint, where = problem(write, text)
    assert found == key
    assert says in what
    assert suggests in (hint or "")
    assert where == f"r.toml:{place}"


@pytest.mark.parametrize(
    ("sets", "key", "says", "suggests"),
    [
        (["method.temprature=2"], "method.temprature", "unknown option of skd", '"temperature"'),
        (
            ["method.name=none", "method.temperature=2"],
            "method.temperature",
            "unknown option of none",
            "not to none",
        ),
        (["train.epochs='3'"], "train.epochs", "must be a whole number", "write 3"),
        (["optim.lr=.05"], "optim.lr", "must be a number", "write 0.05"),
        (["train.ema=None"], "train.ema", 'must be a number, got "None"', ""),
        (["train=3"], "train", "must be a table, got 3", ""),
        (
            ["data.name=synthetic", "data.classes=51"],
            "data.classes",
            "must be a multiple of superclasses",
            "",
        ),
    ],
)
def test_overrides_are_placed_at_their_flag(here, sets, key, says, suggests):
    ((found, (what, hint, where)),) = told(refused(sets=sets)).items()
    assert found == key
    assert says in what
    assert suggests in (hint or "")
    assert where == f"--set {sets[-1]}"


def test_all_problems_at_once_in_the_order_of_the_file(write):
    path = write(
        "recipes/bad.toml",
        (
            '[data]\nname = "cifar-100"\nval_fraction = 2\n[train]\nepoch = 240\n[optim]\nlr = '
            '-0.05\nname = "adam"\n'
        ),
    )
    error = refused(file=path, sets=["method.temprature=2"])
    assert error.message == "8 problems in recipes/bad.toml"
    keys = [
        "data.name",
        "data.val_fraction",
        "train.epoch",
        "optim.lr",
        "optim.name",
        "student",
        "teacher",
        "method.temprature",
    ]
    assert [item.key for item in error.diagnostics] == keys


def test_a_diagnostic_carries_the_line_to_underline(write):
    (item,) = refused(file=write("r.toml", RECIPE + '[data]\nname = "cifar-100"  # x')).diagnostics
    assert (item.source_line, item.length) == ('name = "cifar-100"  # x', 11)


def test_a_recipe_of_the_other_command_is_named_as_such(write):
    teacher = write("teacher.toml", '[model]\nname = "cnn-large"\n')
    (item,) = refused("distill", file=teacher).diagnostics
    assert (item.key, item.hint) == ("model", "kd train-teacher teacher.toml")
    (item,) = refused("train-teacher", file=write("student.toml", RECIPE)).diagnostics
    assert (item.key, item.hint) == ("student", "kd distill student.toml")


def test_missing_network_says_how_to_name_one(write):
    assert (
        "--model NAME"
        in told(refused("train-teacher", file=write("r.toml", '[data]\nname = "cifar10"')))[
            "model"
        ][1]
    )
    assert (
        "--student NAME"
        in told(refused("distill", file=write("r.toml", '[method]\nname = "none"')))["student"][1]
    )


def test_flags_are_checked_like_keys(here):
    assert told(refused(flags=[Flag("--epochs", "train.epochs", 0)]))["train.epochs"] == (
        "must be at least 1, got 0",
        None,
        "--epochs 0",
    )


def test_neither_a_good_nor_a_bad_recipe_imports_torch(write):
    write("bad.toml", "[scheduler]\n[method]\ntemprature = 2\n")
    code = """
import sys
from kdcli.recipe.json_schema import schema
from kdcli.recipe.resolve import resolve
from kdcli.recipe.writing import dump, recipe_hash
good = resolve("distill")
dump(good.recipe, good.origins), recipe_hash(good.recipe), schema()
try:
    resolve("distill", file="bad.toml")
except Exception as error:
    print(error.code)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["RECIPE_INVALID", "False"]
