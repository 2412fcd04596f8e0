"""Which value wins, where it came from, and what is left out when a section takes another name."""

from __future__ import annotations

import pytest

from kdcli.recipe.resolve import Flag, resolve
from tests.unit.recipe.conftest import refused, told

STUDENT = '[student]\nname = "cnn-small"\n[method]\nname = "none"\n'


def solve(path, **arguments):
    return resolve("distill", file=path, **{"environ": {}, **arguments})


def test_precedence_and_origin_of_every_layer(write):
    write(
        "grand.toml",
        "[train]\nepochs = 1\nbatch_size = 11\naccumulate = 7\nkeep_every = 5\nema = 0.5\n",
    )
    write(
        "base.toml",
        'extends = "grand.toml"\n[train]\nepochs = 2\nbatch_size = 22\nkeep_every = 6\n',
    )
    path = write(
        "r.toml",
        'extends = "base.toml"\n'
        + STUDENT
        + "[train]\nepochs = 3\nclip_norm = 3.0\n[data]\nroot = 'file'\n",
    )
    found = solve(
        path,
        sets=["train.epochs=4", "train.epochs=5", "seed=1"],
        flags=[Flag("--seed", "seed", 1)],
        environ={"KD_DATA_DIR": "env"},
    )
    train, origins = found.recipe.train, found.origins
    assert (
        train.epochs,
        train.batch_size,
        train.accumulate,
        train.clip_norm,
        train.keep_every,
    ) == (5, 22, 7, 3.0, 6)
    assert found.recipe.data.root == "env"
    assert {
        key: origins[f"train.{key}"]
        for key in ("epochs", "batch_size", "accumulate", "clip_norm", "ema", "select")
    } == {
        "epochs": "--set",
        "batch_size": "base.toml:4",
        "accumulate": "grand.toml:4",
        "clip_norm": "r.toml:8",
        "ema": "grand.toml:6",
        "select": "default",
    }
    assert (origins["seed"], origins["data.root"]) == ("--seed", "KD_DATA_DIR")


def test_values_of_a_notebook_win_over_the_file_and_lose_to_flags(write):
    path = write("r.toml", STUDENT + "[train]\nepochs = 3\n")
    assert solve(path, values={"train.epochs": 4}).recipe.train.epochs == 4
    assert (
        solve(
            path, values={"train.epochs": 4}, flags=[Flag("--epochs", "train.epochs", 5)]
        ).recipe.train.epochs
        == 5
    )


def test_extends_finds_files_beside_the_file_and_shipped_ones(write):
    write("deep/base.toml", 'extends = "quickstart"\n')
    found = solve(write("deep/r.toml", 'extends = "base.toml"\nseed = 4\n'))
    assert found.recipe.student.name == "cnn-small"
    assert found.origins["student.name"].startswith("recipes/quickstart.toml:")


def test_extends_that_is_not_there(write):
    error = refused(file=write("r.toml", '\nextends = "quickstrat"\n' + STUDENT))
    assert told(error) == {
        "extends": (
            "there is no recipe 'quickstrat'",
            "did you mean 'quickstart'?  (kd recipes ls)",
            "r.toml:2:11",
        )
    }


def test_extends_in_a_circle(write):
    write("a.toml", 'extends = "b.toml"')
    write("b.toml", 'extends = "a.toml"')
    assert "a.toml -> b.toml -> a.toml" in told(refused(file="a.toml"))["extends"][0]


def test_problems_of_a_parent_have_its_name(write):
    write("base.toml", "[train]\nepoch = 2\n")
    error = refused(file=write("r.toml", 'extends = "base.toml"\n' + STUDENT + "[optim]\nlr = 0\n"))
    assert error.message == "2 problems in base.toml and r.toml"
    assert told(error)["train.epoch"][2] == "base.toml:2:1"


def test_another_method_drops_the_options_of_the_parents(write):
    write(
        "base.toml",
        (
            '[student]\nname = "cnn-small"\n[teacher]\nrecipe = '
            '"quickstart-teacher"\n[method]\nname = "skd"\ntemperature = 9.0\n'
        ),
    )
    found = solve(
        write("r.toml", 'extends = "base.toml"\n[method]\nname = "kd"\nce_weight = 1.0\n')
    )
    assert (found.recipe.method.temperature, found.recipe.method.ce_weight) == (4.0, 1.0)
    assert any(
        "method.temperature of base.toml:7 belongs to skd and is left out" in note
        for note in found.notes
    )


def test_options_given_with_a_flag_for_their_method_stay(write):
    path = write(
        "r.toml", '[student]\nname = "cnn-small"\n[teacher]\nrecipe = "quickstart-teacher"\n'
    )
    found = solve(
        path, sets=["method.temperature=2.0"], flags=[Flag("--method", "method.name", "kd")]
    )
    assert (found.recipe.method.name, found.recipe.method.temperature) == ("kd", 2.0)


def test_common_keys_stay_with_another_name(write):
    write(
        "base.toml",
        (
            '[data]\nname = "synthetic"\nclasses = 20\nval_fraction = '
            "0.1\n[schedule]\nwarmup_epochs = 2.0\nfloor = 0.1\n"
        ),
    )
    found = solve(
        write(
            "r.toml",
            (
                f'extends = "base.toml"\n{STUDENT}[data]\nname = "digits"\n[schedule]\nname = '
                '"constant"\n'
            ),
        )
    )
    assert (found.recipe.data.val_fraction, found.recipe.schedule.warmup_epochs) == (0.1, 2.0)


def test_the_learning_rate_belongs_to_its_optimiser(write):
    path = write("r.toml", STUDENT + "[optim]\nlr = 0.3\n")
    found = solve(path, sets=["optim.name=adamw"])
    assert (found.recipe.optim.lr, found.origins["optim.lr"]) == (0.001, "default")


def test_another_source_of_the_teacher_replaces_the_earlier(write, checkpoint):
    path = write(
        "r.toml",
        '[teacher]\nrecipe = "quickstart-teacher"\nweight = 2.0\n[student]\nname = "cnn-small"\n',
    )
    (teacher,) = solve(
        path, flags=[Flag("--teacher", "teacher.checkpoint", str(checkpoint()))]
    ).recipe.teacher
    assert (teacher.recipe, teacher.checkpoint, teacher.weight) == (
        None,
        "runs/t/model.safetensors",
        2.0,
    )


@pytest.mark.parametrize(
    "text",
    [
        "[[teacher]]\nrecipe = 'quickstart-teacher'\n",
        "[teacher]\nrecipe = 'quickstart-teacher'\n",
        "teacher = {recipe='quickstart-teacher'}\n",
    ],
)
def test_one_teacher_may_be_written_as_table_or_list(write, text):
    found = solve(write("r.toml", text + '[student]\nname = "cnn-small"\n'))
    assert len(found.recipe.teacher) == 1
    assert found.origins["teacher.recipe"].startswith("r.toml:")
