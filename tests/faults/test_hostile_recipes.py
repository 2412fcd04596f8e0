"""Recipes and overrides of any size: one answer with exit code 2, soon, and short enough to read."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from kdcli.cli.app import run as kd
from kdcli.cli.console import Environment

SECONDS = 3.0
MODEL = '[model]\nname = "mlp"\n'


def refused(*argv: str) -> str:
    """Runs a command that must refuse what it was given; returns what it said."""
    stdout, stderr = io.StringIO(), io.StringIO()
    began = time.process_time()
    code = kd(argv, Environment(stdout, stderr, {}))
    seconds = time.process_time() - began
    said = stderr.getvalue()
    assert code == 2, (code, said[-2000:], stdout.getvalue()[-300:])
    assert "should not happen" not in said
    assert said.count("error:") == 1
    assert len(said) < 20_000
    assert seconds < SECONDS, seconds
    return said


RECIPES = {
    "deep list": (MODEL + f"x = {'[' * 500}{']' * 500}\n", "nested more than 20 deep"),
    "list beyond the parser": (f"x = {'[' * 50_000}{']' * 50_000}", "nested more than 20 deep"),
    "deep table": (f"x = {'{a=' * 500}1{'}' * 500}", "nested more than 20 deep"),
    "dotted key": (f"{'a.' * 500}b = 1", "nested more than 20 deep"),
    "longer dotted key": (f"{'a.' * 100_000}b = 1", "nested more than 20 deep"),
    "dotted key in quotes": ("'a'." * 500 + "b = 1", "nested more than 20 deep"),
    "deep header": (f"[{'a.' * 500}b]\n", "nested more than 20 deep"),
    "some levels": (f"x = {'[' * 19}{']' * 19}\n{MODEL}", "x: unknown key"),
    "digits": (MODEL + f"seed = {'9' * 5000}\n", "a number of thousands of digits"),
    "epochs": (MODEL + f"[train]\nepochs = 1{'0' * 400}\n", "must be at most 1000000, got 1000"),
    "temperature": (
        MODEL + '[method]\nname = "tf_kd"\ntemperature = 1e300\n',
        "method.temperature: must be at most 1e+12",
    ),
    "lr": (MODEL + "[optim]\nlr = 1e300\n", "optim.lr: must be at most 1e+12"),
    "batch": (MODEL + f"[train]\nbatch_size = 1{'0' * 30}\n", "must be at most 1e+12"),
    "milestones": (
        MODEL + f'[schedule]\nname = "multistep"\nmilestones = [1, 1{"0" * 30}]\n',
        "schedule.milestones: must be at most 1e+12",
    ),
    "seed": (f"seed = 1{'0' * 30}\n{MODEL}", "seed: must be less than"),
    "unknown keys": ("".join(f"k{n} = 1\n" for n in range(16_000)), "more"),
    "unknown keys of a section": (
        MODEL + "[train]\n" + "".join(f"epoch{n} = 1\n" for n in range(12_000)),
        "and 11,950 more",
    ),
    "large": ("x = 1\n" * 100_000, "more than 262,144 bytes"),
    "long key": (f"{'k' * 250_000} = 1\n", "unknown key"),
    "long value": (MODEL + f'[data]\nname = "{"x" * 250_000}"\n', "is not a dataset"),
    "long line of problems": (MODEL + f"[train]\nepochs = [{'1, ' * 30_000}]\n", "whole number"),
}


def cases():
    """Each under both commands, which read alike: where it takes seconds, the second is slow."""
    for name in RECIPES:
        yield "check", name
        long = name.startswith(("unknown keys", "long line"))
        yield pytest.param("train-teacher", name, marks=pytest.mark.slow if long else ())


@pytest.mark.parametrize(("command", "name"), list(cases()))
def test_a_hostile_recipe(tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    text, told = RECIPES[name]
    Path("r.toml").write_text(text)
    assert told in refused(command, "r.toml")


@pytest.mark.parametrize("files", [30, 1500])
def test_many_recipes_that_extend_each_other(tmp_path, monkeypatch, files):
    monkeypatch.chdir(tmp_path)
    for number in range(files):
        Path(f"{number}.toml").write_text(f'extends = "{number + 1}.toml"\n')
    Path(f"{files}.toml").write_text(MODEL)
    assert "more than 20 recipes extend each other" in refused("train-teacher", "0.toml")


def test_as_many_as_are_needed_may_extend_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(15):
        Path(f"{number}.toml").write_text(f'extends = "{number + 1}.toml"\n')
    Path("15.toml").write_text(MODEL)
    assert kd(("check", "0.toml"), Environment(io.StringIO(), io.StringIO(), {})) == 0


SETS = {
    "deep list": f"train.epochs={'[' * 500}{']' * 500}",
    "deeper list": f"train.epochs={'[' * 50_000}{']' * 50_000}",
    "deep table": f"train.epochs={'{a=' * 500}1{'}' * 500}",
    "dotted key": f"{'a.' * 500}b=1",
    "longer dotted key": f"{'a.' * 50_000}b=1",
    "digits": f"train.epochs={'9' * 5000}",
    "epochs": f"train.epochs=1{'0' * 400}",
    "temperature": "method.temperature=1e300",
    "text": f"train.epochs={'x' * 500_000}",
    "long key": f"{'x' * 500_000}=1",
    "no equals sign": "x" * 500_000,
}


@pytest.mark.parametrize("name", SETS)
def test_a_hostile_override(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert len(refused("distill", "-s", SETS[name])) < 4000
