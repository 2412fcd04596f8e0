"""CONTRIBUTING.md names the files to touch, and they are the right ones: one of each addition is made
in a copy of the tree, and kd shows it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

METHOD = '''"""Golden method: labels alone, by another name

Paper: none.
Reference code: none.

    L = CE(z, y)

Differs from the paper: nothing.
"""

from kdcli import losses
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.types import Step

FAMILY = "baseline"


class Options(MethodOptions):
    """It has none."""


class Golden(Method):
    """Trains the student on labels."""

    teachers = Arity(0, 0)
    options: Options

    def loss(self, batch, at):
        z = self.student(batch.x).logits
        return Step({"ce": losses.cross_entropy(z, batch.y)}, z)
'''
NETWORK = '''"""Golden networks."""

from kdcli.core.options import Options as ModelOptions
from kdcli.models import mlp

VARIANTS = {
    "golden-net": {
        "summary": "a perceptron by another name",
        "arguments": {"hidden": [16]},
        "smaller": None,
        "input_shape": [1, 8, 8],
    },
}


class Options(ModelOptions):
    """It has none."""


def build(name, *, num_classes, input_shape, arguments):
    plain = {**mlp.VARIANTS["mlp"]["arguments"], **arguments}
    return mlp.build(name, num_classes=num_classes, input_shape=input_shape, arguments=plain)
'''
DATASET = '''"""Golden data: the digits by another name."""

from kdcli.core.options import Options as DataOptions
from kdcli.data.datasets import digits

DATASETS = {
    "golden-digits": {
        "summary": "digits by another name",
        "classes": 10,
        "shape": [1, 8, 8],
        "train": 1437,
        "test": 360,
        "megabytes": 0,
        "download": False,
        "augment": {},
    },
}


class Options(DataOptions):
    """It has none."""


def load(name, *, options, root):
    return digits.load(name, options=options, root=root)
'''
COMMAND = '''"""`kd golden`: a command that says so."""

from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome

NAME = "golden"
EXAMPLES = """
kd golden
"""


def run(env: Environment) -> Outcome:
    """Say that it is there."""
    env.write("golden command")
    return Outcome()
'''
DRIVER = """
import contextlib, io, json, sys
from kdcli.__main__ import main
answers = []
for argv in json.loads(sys.argv[1]):
    sys.argv, out = ["kd", *argv], io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            assert not end.code, (argv, out.getvalue())
    answers.append(out.getvalue())
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def page(root) -> dict[str, str]:
    """The table of the page: what is added, and the cells that say where."""
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (an? [^|]+) \| (.*) \|$", text, re.MULTILINE)
    return {what.strip(): where for what, where in rows}


def files(where: str) -> list[str]:
    """The files of kdcli that a row names."""
    return re.findall(r"`(kdcli/[\w/]+\.py)`", where)


def test_files_that_the_page_names_are_there(page, root):
    assert len(page) > 7
    for what, where in page.items():
        for name in files(where):
            path = root / name
            to_be_made = path.stem in {"NAME", "FAMILY"}
            assert path.parent.is_dir() if to_be_made else path.is_file(), f"{what}: {name}"


@pytest.fixture(scope="module")
def changed(page, root, tmp_path_factory) -> Path:
    """A copy of the tree with one of each, in the files that the page names first."""
    copy = tmp_path_factory.mktemp("tree")
    shutil.copytree(root / "kdcli", copy / "kdcli")  # with what is compiled of it
    shutil.copytree(root / "recipes", copy / "recipes")

    def write(what: str, text: str) -> None:
        path = copy / files(page[what])[0].replace("NAME", "golden").replace("FAMILY", "golden")
        assert not path.exists()
        path.write_text(text, encoding="utf-8")

    def edit(what: str, before: str, after: str) -> None:
        path = next(
            copy / name
            for name in files(page[what])
            if (copy / name).is_file() and before in (copy / name).read_text("utf-8")
        )
        path.write_text(path.read_text("utf-8").replace(before, after, 1), encoding="utf-8")

    write("a method", METHOD)
    write("a network", NETWORK)
    write("a dataset", DATASET)
    write("a command", COMMAND)
    edit("a command", '"doctor",', '"doctor", "golden",')
    seed = 'seed: int = Field(0, ge=0, lt=2**63, description="Seed of every random draw.")'
    option = 'golden: int = Field(7, ge=0, description="A golden option.")'
    edit("a recipe option", f"    {seed}\n", f"    {seed}\n    {option}\n")
    flag = '    "seed": (Seed, "seed"),\n'
    edit("a flag for a recipe option", flag, f'{flag}    "golden": (Seed, "golden"),\n')
    return copy


def test_each_addition_shows(changed, tmp_path):
    calls = [
        ["methods"],
        ["models", "golden-net", "--json", "-q"],
        ["datasets"],
        ["--help"],
        ["golden"],
        ["schema"],
        ["check", "quickstart", "-s", "golden=9"],
        [
            "distill",
            "-m",
            "golden",
            "--student",
            "golden-net",
            "-d",
            "golden-digits",
            "-s",
            "data.train_limit=100",
            "-s",
            "report.html=false",
            "-s",
            "report.latency=false",
            "--epochs",
            "1",
            "--json",
            "-q",
        ],
    ]
    environment = {**os.environ, "PYTHONPATH": str(changed)}
    command = [sys.executable, "-c", DRIVER, json.dumps(calls)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    methods, model, datasets, told, command, schema, checked, run = json.loads(done.stdout)
    assert "golden" in methods
    assert json.loads(model)["data"]["name"] == "golden-net"
    assert "golden-digits" in datasets
    assert re.search(r"^ *golden +Say that it is there", told, re.MULTILINE)
    assert command == "golden command\n"
    assert "A golden option." in schema
    assert re.search(r"golden = 9|golden +9", checked)
    data = json.loads(run)["data"]
    assert (data["method"], data["network"], data["data"]) == (
        "golden",
        "golden-net",
        "golden-digits",
    )
