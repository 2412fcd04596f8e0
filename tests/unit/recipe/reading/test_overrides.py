"""--set and flags: what they mean, and that two that disagree are refused instead of guessed
between.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.errors import RecipeInvalid
from kdcli.recipe.reading.overrides import from_command_line, parse_set
from kdcli.recipe.resolve import Flag, resolve
from tests.unit.recipe.conftest import refused, told


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.epochs=3", ("train", "epochs"), 3),
        ("optim.lr = 1e-3", ("optim", "lr"), 0.001),
        ("data.name=cifar100", ("data", "name"), "cifar100"),
        ('data.name="cifar100"', ("data", "name"), "cifar100"),
        ("schedule.milestones=[60,80]", ("schedule", "milestones"), [60, 80]),
        ("train.keep_best=true", ("train", "keep_best"), True),
        ("train.keep_best=True", ("train", "keep_best"), "True"),
        ('"odd key".x=a=b', ("odd key", "x"), "a=b"),
        ("name=", ("name",), ""),
        ("name=1\nseed=2", ("name",), "1\nseed=2"),
        ("method={name='kd', weight=1}", ("method",), {"name": "kd", "weight": 1}),
    ],
)
def test_values_are_toml_and_else_text(text, path, value):
    assert parse_set(text) == (path, value)


def test_malformed_sets_are_all_told(here):
    error = refused(sets=["foo", "=3", "a b=2"])
    assert [str(item.where) for item in error.diagnostics] == [
        "--set foo",
        "--set =3",
        "--set a b=2",
    ]
    assert error.message == "3 problems in the overrides"


@pytest.mark.parametrize(
    ("sets", "flags"),
    [
        (["train.epochs=5"], [Flag("--epochs", "train.epochs", 3)]),
        (["train={epochs=5}"], [Flag("--epochs", "train.epochs", 3)]),
        ([], [Flag("--epochs", "train.epochs", 3), Flag("--passes", "train.epochs", 5)]),
        (["teacher.checkpoint=a"], [Flag("-t", "teacher.checkpoint", "b")]),
    ],
)
def test_two_that_disagree_are_refused(here, sets, flags):
    ((problem, hint, where),) = told(refused(sets=sets, flags=flags)).values()
    assert problem.endswith("disagree")
    assert (hint, where) == ("give one of them", f"{flags[-1].option} {flags[-1].value}")


def test_two_that_agree_are_fine(here):
    found = resolve(
        "distill", sets=["train.epochs=3"], flags=[Flag("--epochs", "train.epochs", 3)], environ={}
    )
    assert (found.recipe.train.epochs, found.origins["train.epochs"]) == (3, "--epochs")


def test_a_table_and_a_plain_value_for_one_section(here):
    assert "plain value" in told(refused(sets=["train=3", "train.epochs=2"]))["train.epochs"][0]


def test_several_teachers_come_as_one_list_or_as_several_flags(checkpoint):
    paths = [Path(checkpoint("a/model.safetensors")), Path("a")]
    one = resolve("distill", flags=[Flag("--teacher", "teacher.checkpoint", paths)], environ={})
    two = resolve(
        "distill",
        flags=[Flag("--teacher", "teacher.checkpoint", path) for path in paths],
        environ={},
    )
    assert [item.checkpoint for item in one.recipe.teacher] == ["a/model.safetensors", "a"]
    assert one.recipe == two.recipe
    assert one.origins["teacher.1.checkpoint"] == "--teacher"


def test_what_is_set_of_the_teacher_is_of_each_of_several():
    two = Flag("--teacher", "teacher.checkpoint", ["a", "b"])
    layer = from_command_line(["teacher.cache=off"], [two])
    assert layer.values["teacher"] == [
        {"cache": "off", "checkpoint": "a"},
        {"cache": "off", "checkpoint": "b"},
    ]
    with pytest.raises(RecipeInvalid) as caught:
        from_command_line(["teacher.logits=x.npz"], [two])
    assert "disagree" in caught.value.diagnostics[0].problem
