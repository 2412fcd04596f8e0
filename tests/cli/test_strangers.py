"""No file of a stranger's runs unless --trust says so: every command, each place where a file can be
named. The file leaves a mark when anything of it is executed.
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kdcli import jobs
from kdcli.cli.app import run
from kdcli.cli.console import Environment
from kdcli.engine.checkpoint import load_weights, save_model
from kdcli.errors import Untrusted
from kdcli.jobs.build.networks import fresh_network
from kdcli.results.weights_header import read_header
from kdcli.trust import trusting
from tests.cli.conftest import Answer

STRANGE = '''\
"""A stranger's file"""

import pathlib

MARK = pathlib.Path({mark!r})
MARK.touch()

import numpy as np
from kdcli import losses
from kdcli.core.method import Method, MethodOptions
from kdcli.core.types import Step
from torch import nn


def net(num_classes):
    """A network"""
    layers = nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, num_classes)
    return nn.Sequential(nn.Flatten(), *layers)


def pictures():
    """Data"""
    x = np.arange(40 * 64, dtype="uint8").reshape(40, 8, 8)
    y = np.arange(40) % 10
    return x, y, x, y


class Options(MethodOptions):
    """Options."""

    MARK.touch()
    share: float = 1.0


class Strange(Method):
    """A method."""

    options: Options

    def loss(self, batch, at):
        z = self.student(batch.x).logits
        return Step({{"ce": losses.cross_entropy(z, batch.y)}}, z)
'''
SMALL = ("--epochs", "1", "-s", "data.train_limit=100", "-s", "report.html=false", "-q")
TEACHER = '[data]\nname = "digits"\n\n[model]\nname = "{name}"\n\n[train]\nepochs = 1\n'


def call(*argv: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    return Answer(run(argv, Environment(out, err)), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with plain/ (a run of kd's own network), and a checkpoint for each place in a header
    that can name a file: they differ from plain's in that alone.
    """
    folder = tmp_path_factory.mktemp("strangers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("evil.py").write_text(STRANGE.format(mark=str(folder / "MARK")), encoding="utf-8")
        assert call("train-teacher", "--model", "cnn-small", "--name", "plain", *SMALL).code == 0
        _, header = read_header("runs/plain")
        plain = jobs.build_network("cnn-small", num_classes=10, input_shape=(1, 8, 8))
        load_weights(Path("runs/plain/model.safetensors"), plain)
        with trusting(["evil.py"]):
            strange = fresh_network("evil.py:net", num_classes=10, input_shape=(1, 8, 8))
            members = [
                {"architecture": name, "arguments": {}} for name in ("cnn-small", "evil.py:net")
            ]
            arguments = {"combine": "sum_logits", "members": members}
            both = fresh_network(
                "composite", num_classes=10, input_shape=(1, 8, 8), options=arguments
            )
        nested = {
            "combine": "sum_logits",
            "members": [{"architecture": "composite", "arguments": arguments}],
        }
        with trusting(["evil.py"]):
            deep = fresh_network("composite", num_classes=10, input_shape=(1, 8, 8), options=nested)
            reused = {
                "body": members[1], "tap": "pooled", "inner": 4, "features": 8, "stride": None,
                "bias": True,
            }  # fmt: skip
            grafted = fresh_network(
                "reused_head", num_classes=10, input_shape=(1, 8, 8), options=reused
            )
        for name, network, changes in (
            ("architecture", strange, {"architecture": "evil.py:net", "arguments": {}}),
            ("composite", both, {"architecture": "composite", "arguments": arguments}),
            ("nested", deep, {"architecture": "composite", "arguments": nested}),
            ("grafted", grafted, {"architecture": "reused_head", "arguments": reused}),
            ("data", plain, {"data": {"name": "evil.py:pictures"}}),
            ("method", plain, {"method": "./evil.py"}),
        ):
            save_model(Path(f"{name}/model.safetensors"), network, replace(header, **changes))
        yield folder


@pytest.fixture
def here(place, monkeypatch):
    """The folder, without a mark."""
    monkeypatch.chdir(place)
    mark = place / "MARK"
    mark.unlink(missing_ok=True)
    yield mark
    for left in Path("runs").iterdir():
        if left.name != "plain":
            left.unlink() if left.is_symlink() else shutil.rmtree(left)


NETWORK = frozenset({"architecture", "composite", "nested", "grafted"})
COMMANDS = {
    "evaluate": (("evaluate", "{}"), NETWORK | {"data"}),
    "evaluate beside another": (("evaluate", "runs/plain", "{}"), NETWORK | {"data"}),
    "evaluate on other data": (("evaluate", "{}", "-d", "digits"), NETWORK),
    "gap of a teacher": (("analyze-gap", "-t", "{}", "--bootstrap", "10"), NETWORK | {"data"}),
    "gap of a student": (
        ("analyze-gap", "-t", "runs/plain", "--student", "{}", "-d", "digits", "--bootstrap", "10"),
        NETWORK | {"method"},
    ),
    "distill": (("distill", "-t", "{}", "--student", "cnn-small", *SMALL), NETWORK | {"data"}),
    "try to distill": (
        ("distill", "-t", "{}", "--student", "cnn-small", "--dry-run"),
        NETWORK | {"data"},
    ),
    "two teachers": (
        ("distill", "-t", "runs/plain", "-t", "{}", "--student", "cnn-small", "--dry-run"),
        NETWORK,
    ),
    "reference": (
        ("distill", "-m", "none", "--student", "cnn-small", "-s", "report.reference={}", *SMALL),
        NETWORK,
    ),
    "start from": (
        ("train-teacher", "--model", "cnn-small", "-s", "model.init={}", *SMALL),
        frozenset(),
    ),
    "plan": (("plan", "-t", "{}", "--student", "cnn-small"), NETWORK | {"data"}),
    "cache": (("cache", "-t", "{}", "-s", "student.name=cnn-small"), NETWORK | {"data"}),
    "size of a cache": (
        ("cache", "-t", "{}", "-s", "student.name=cnn-small", "--size"),
        NETWORK | {"data"},
    ),
    "models": (("models", "-t", "{}"), NETWORK),
}


@pytest.mark.parametrize(
    ("command", "header"),
    [
        (command, header)
        for command in COMMANDS
        for header in (*sorted(NETWORK), "data", "method")
        # which it does not read, and would take long
        if (command, header) != ("plan", "method")
    ],
)
def test_what_a_header_names_runs_only_when_it_is_trusted(here, command, header):
    words, refused = COMMANDS[command]
    argv = [word.format(header) for word in words]
    answer = call(*argv)
    assert not here.exists()
    if header not in refused:
        assert "is code that" not in answer.err
        return
    assert answer.code == 2, answer.err
    said, hint = [line for line in answer.err.splitlines() if line.startswith(("error:", "  try:"))]
    assert "evil.py is code that the " in said
    assert f" {header}/model.safetensors asks for, not you" in said
    assert hint.startswith(f"  try:  kd {argv[0]} ")
    assert hint.endswith(" --trust")
    assert [run.name for run in Path("runs").glob("[!l]*")] == ["plain"]


@pytest.mark.parametrize("header", [*sorted(NETWORK), "data"])
@pytest.mark.parametrize("command", ["evaluate", "gap of a teacher", "try to distill"])
def test_with_trust_it_runs(here, command, header):
    words, _ = COMMANDS[command]
    answer = call(*(word.format(header) for word in words), "--trust")
    assert "is code that" not in answer.err
    assert here.exists()


def test_a_refusal_has_a_code_of_its_own(here):
    document = json.loads(call("evaluate", "architecture", "--json").out)
    (error,) = document["errors"]
    assert (document["exit_code"], error["code"]) == (2, "UNTRUSTED")


@pytest.mark.parametrize(
    ("words", "mine"),
    [
        (("evaluate", "data", "-d", "evil.py:pictures"), True),
        (("distill", "-t", "architecture", "--student", "evil.py:net", "--dry-run"), True),
        (("distill", "-t", "architecture", "-s", "student.name=./evil.py:net", "--dry-run"), True),
        (
            (
                "distill",
                "-t",
                "architecture",
                "-m",
                "./evil.py",
                "--student",
                "cnn-small",
                "--dry-run",
            ),
            True,
        ),
        (
            (
                "distill",
                "-t",
                "architecture",
                "-m",
                "./other.py",
                "--student",
                "cnn-small",
                "--dry-run",
            ),
            False,
        ),
    ],
)
def test_a_file_that_the_command_line_names_too_is_the_users(here, words, mine):
    Path("other.py").write_text(STRANGE.format(mark="OTHER"), encoding="utf-8")
    answer = call(*words)
    assert (answer.code, here.exists()) == ((0, True) if mine else (2, False)), answer.err


@pytest.mark.parametrize("command", ["evaluate", "gap of a teacher", "try to distill", "models"])
@pytest.mark.parametrize("header", ["architecture", "composite", "grafted", "data"])
def test_weights_are_compared_with_their_checksum_before_anything_runs(here, command, header):
    words, refused = COMMANDS[command]
    whole = Path(header, "model.safetensors").read_bytes()
    Path("damaged").mkdir(exist_ok=True)
    Path("damaged/model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    answer = call(*(word.format("damaged") for word in words), "--trust")
    if header in refused:
        assert answer.code == 2
        assert "damaged/model.safetensors is damaged" in answer.err
    assert not here.exists()


# ---- recipes -------------------------------------------------------------------------------------

STUDENT = (
    'data.name = "digits"\nstudent.name = "cnn-small"\nmethod.name = "none"\ntrain.epochs = 1\n'
)
OWN = {
    "student": 'student.name = "evil.py:net"',
    "data": 'data.name = "evil.py:pictures"',
    "method": 'method.name = "./evil.py"\nmethod.share = 2.0\nteacher.checkpoint = "runs/plain"',
    "assistants": (
        'method = {name = "ta", assistants = ["evil.py:net"]}\n'
        'teacher.checkpoint = "runs/plain"\nstudent = {name = "mlp", hidden = [8]}'
    ),
}


@pytest.mark.parametrize("key", OWN)
def test_what_a_recipe_names_is_the_users_where_the_user_names_the_recipe(here, key):
    _recipe("mine/r.toml", OWN[key])
    answer = call("distill", "mine/r.toml", "--dry-run")
    assert answer.code == 0, answer.err
    assert here.exists()


@pytest.mark.parametrize("key", OWN)
@pytest.mark.parametrize(
    ("parent", "mine"),
    [("mine/base.toml", True), ("mine/below/base.toml", True), ("theirs/base.toml", False)],
)
def test_what_it_extends_is_the_users_in_its_folder_alone(here, key, parent, mine):
    _recipe(parent, OWN[key])
    path = str(Path("..", parent)) if not mine else str(Path(parent).relative_to("mine"))
    _write("mine/r.toml", f'extends = "{path}"\ntrain.epochs = 2\n')
    assert call("check", "mine/r.toml").code == 0
    assert not here.exists()
    answer = call("distill", "mine/r.toml", "--dry-run")
    assert (answer.code, here.exists()) == ((0, True) if mine else (2, False)), answer.err
    if not mine:
        assert "evil.py is code that mine/../theirs/base.toml:" in answer.err
        assert call("distill", "mine/r.toml", "--dry-run", "--trust").code == 0
        assert here.exists()


def test_a_link_out_of_the_folder_leads_out_of_it(here):
    _recipe("theirs/base.toml", OWN["student"])
    Path("mine").mkdir(exist_ok=True)
    Path("mine/link.toml").unlink(missing_ok=True)
    Path("mine/link.toml").symlink_to("../theirs/base.toml")
    _write("mine/r.toml", 'extends = "link.toml"\n')
    assert call("distill", "mine/r.toml", "--dry-run").code == 2
    assert not here.exists()


@pytest.mark.parametrize("where", ["teacher.recipe", "report.reference"])
@pytest.mark.parametrize("name", ["evil.py:net", "extends"])
@pytest.mark.parametrize("folder", ["mine", "theirs"])
def test_the_recipe_of_a_teacher_is_the_users_in_the_folder_of_the_one_that_names_it(
    here, where, name, folder
):
    teacher = TEACHER.format(name="evil.py:net")
    if name == "extends":
        _write("theirs/base.toml", teacher)
        teacher = 'extends = "../theirs/base.toml"\n'
    _write(f"{folder}/teacher.toml", teacher)
    method = 'method.name = "kd"' if where == "teacher.recipe" else 'method.name = "none"'
    text = STUDENT.replace('method.name = "none"', method)
    _write("mine/r.toml", f'{text}{where} = "../{folder}/teacher.toml"\n')
    mine = folder == "mine" and name != "extends"
    answer = call("distill", "mine/r.toml", "--dry-run")
    assert (answer.code, here.exists()) == ((0, True) if mine else (2, False)), answer.err
    named = call("distill", "mine/r.toml", "-s", f"{where}={folder}/teacher.toml", "--dry-run")
    assert named.code == (2 if name == "extends" and folder == "mine" else 0), named.err


@pytest.mark.parametrize("jobs_", ["1", pytest.param("2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("folder", ["mine", "theirs"])
def test_the_base_of_a_sweep_is_the_users_in_its_folder(here, folder, jobs_, monkeypatch):
    monkeypatch.setattr("kdcli.jobs.sweep.run.machine_cores", lambda: (0, 0))
    _recipe(f"{folder}/base.toml", OWN["student"] + "\nreport.html = false")
    _write("mine/sweep.toml", f'base = "../{folder}/base.toml"\n[axes]\nseed = [0, 1]\n')
    answer = call("sweep", "mine/sweep.toml", "--jobs", jobs_, "--limit", "1", "-q")
    assert (answer.code, here.exists()) == ((0, True) if folder == "mine" else (2, False)), (
        answer.err
    )
    if folder == "theirs":
        assert not list(Path("runs").glob("*evil*"))
        assert (
            call("sweep", "mine/sweep.toml", "--jobs", jobs_, "--limit", "1", "-q", "--trust").code
            == 0
        )
        assert here.exists()


@pytest.mark.parametrize("devices", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_run_goes_on_with_what_its_recipe_names_only_when_it_is_trusted(here, devices):
    answer = call(
        "distill",
        "-m",
        "none",
        "--student",
        "evil.py:net",
        "--name",
        "stopped",
        "--devices",
        devices,
        "--keep-state",
        *SMALL,
    )
    assert answer.code == 0, answer.err
    Path("runs/stopped/summary.json").unlink()
    here.unlink()
    answer = call("resume", "runs/stopped", "-q")
    assert answer.code == 2, answer.err
    assert "evil.py is code that runs/stopped/recipe.toml:" in answer.err
    assert "try:  kd resume runs/stopped -q --trust" in answer.err
    # report reads the same files, and never imports torch (the contracts in pyproject.toml)
    assert call("compare", "runs/stopped", "runs/plain").code == 0
    assert not here.exists()
    assert "is code that" not in call("resume", "runs/stopped", "--trust", "-q").err
    assert here.exists()


# ---- what only looks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("check", "mine/r.toml"),
        ("check", "mine/sweep.toml"),
        ("table", "mine/sweep.toml"),
        ("methods", "./evil.py"),
        ("models", "evil.py"),
        ("models", "./evil.py:net"),
        ("datasets", "evil.py"),
        ("datasets", "evil.py:pictures"),
        ("schema",),
    ],
)
def test_what_only_looks_runs_nothing(here, words):
    _recipe("mine/r.toml", "\n".join((OWN["data"], OWN["method"], OWN["student"])))
    _write("mine/sweep.toml", 'base = "r.toml"\n[axes]\nseed = [0, 1]\n')
    answer = call(*words)
    assert answer.code == 0, answer.err
    assert not here.exists()
    if words[0] == "methods":
        assert "share  float" in answer.out


def test_from_python_trust_is_an_argument(here):
    with pytest.raises(Untrusted):
        jobs.evaluate(["architecture"])
    assert not here.exists()
    jobs.evaluate(["architecture"], trust=True)
    assert here.exists()
    here.unlink()
    with pytest.raises(Untrusted):  # it held for that call alone
        jobs.evaluate(["architecture"])
    assert not here.exists()
    jobs.build_network("evil.py:net", num_classes=10, input_shape=(1, 8, 8))
    assert here.exists()


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _recipe(path: str, own: str) -> None:
    """A recipe of a student with some keys of its own."""
    keys = {line.partition(" ")[0].partition(".")[0] for line in own.splitlines()}
    kept = [line for line in STUDENT.splitlines() if line.partition(".name")[0] not in keys]
    _write(path, "\n".join((*kept, *own.splitlines())) + "\n")
