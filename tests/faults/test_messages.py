"""Messages that once led somewhere else, each with the kind behind it: the cause is named, the
remedy is one, and what looks like a command can be run.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcli.cli.app import run
from kdcli.cli.console import Environment
from kdcli.cli.output.errors import show_error
from kdcli.cli.output.run_screen import show_gates
from kdcli.data.split import partition
from kdcli.errors import BadData, KdError, NonFiniteLoss, UsageError
from kdcli.jobs import train_teacher
from kdcli.report.findings.run import gate_sentence
from kdcli.results.measures import GateResult

QUICK = {"data.train_limit": 60, "train.batch_size": 20, "report.html": False, "report.probe": 0}


@pytest.fixture
def kd(tmp_path, monkeypatch):
    """Runs a command in a folder of its own; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        return run(argv, Environment(out, err, {})), out.getvalue(), err.getvalue()

    return call


# ---- what is left to train on --------------------------------------------------------------------

LABELS = torch.arange(100) % 10


def split(**settings: object) -> None:
    settings = {"val_fraction": 0.0, "train_limit": None, **settings}
    partition(LABELS, seed=0, class_names=list("0123456789"), **settings)


@pytest.mark.parametrize("limit", [None, 50])
def test_a_fraction_that_holds_out_everything(limit):
    with pytest.raises(UsageError, match="leaves none to train on") as caught:
        split(val_fraction=0.9999, train_limit=limit)
    assert caught.value.hint == "lower data.val_fraction"


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"val_fraction": 0.95}, "lower data.val_fraction"),
        ({"train_limit": 5}, "raise data.train_limit"),
        (
            {"val_fraction": 0.5, "train_limit": 5},
            "raise data.train_limit or lower data.val_fraction",
        ),
    ],
)
def test_a_class_without_samples_is_blamed_on_what_was_set(settings, hint):
    with pytest.raises(BadData, match="has no training sample") as caught:
        split(**settings)
    assert caught.value.hint == hint


# ---- a loss that is not finite -------------------------------------------------------------------


SPOILED = """
from kdcli import losses
from kdcli.core.method import Arity, Method
from kdcli.core.types import Step

class Spoiled(Method):
    '''A loss that is no number after some steps.'''
    teachers = Arity(0, 0)
    calls = 0

    def loss(self, batch, at):
        out = self.student(batch.x)
        self.calls += 1
        factor = float("nan") if self.calls > AFTER else 1.0
        return Step({"ce": factor * losses.cross_entropy(out.logits, batch.y)}, out.logits)
"""


@pytest.mark.parametrize("after", [0, 2])
def test_a_loss_is_blamed_on_the_rate_only_once_a_step_was_taken(tmp_path, after):
    method = tmp_path / f"spoiled{after}.py"
    method.write_text(SPOILED.replace("AFTER", str(after)))
    with pytest.raises(NonFiniteLoss) as caught:
        train_teacher(
            model="mlp",
            data="digits",
            out=tmp_path,
            epochs=2,
            overrides={**QUICK, "method.name": str(method)},
        )
    hint = str(caught.value.hint)
    assert ("optim.lr" in hint) == (after > 0)
    assert ("no step had been taken: look at the data" in hint) == (after == 0)


# ---- hints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "is_command"),
    [
        ("kd distill -t runs/t", True),
        ("kd resume runs/x, without torchrun", True),
        ("kd recipes show quickstart", True),
        ("kd compare RUN RUN", True),
        ("-d cifar100, which it was trained on, or a teacher trained on cifar10", True),
        ("--split test, or train with data.val_fraction above 0", True),
        ("kd reads the model.safetensors that its own runs leave", False),
        ("kd reads .jpg .png; remove the folder or fill it", False),
        ("kd models lists all of them", False),
        ("kd models mlp lists them", False),
        ("kd recipes ls lists what ships with kd", False),
        ("kd datasets mnist says where it comes from", False),
        ("copy it again, or train again", False),
    ],
)
def test_try_stands_before_commands_alone(hint, is_command):
    said = io.StringIO()
    show_error(KdError("x", hint=hint), Environment(io.StringIO(), said, {}))
    assert ("try:" in said.getvalue()) == is_command


@pytest.mark.parametrize("file", ["summary.json", "recipe.toml"])
def test_a_damaged_file_is_not_mended_by_the_same_command(kd, tmp_path, file):
    made = train_teacher(model="mlp", data="digits", out=tmp_path, epochs=1, overrides=QUICK)
    (Path(made.run) / "manifest.json").unlink()
    (Path(made.run) / file).write_text("{")
    code, _, said = kd("report", made.run)
    assert code == 2
    assert "run the command again" not in said
    assert "put the file back as it was, or make the run again" in said


# ---- names, classes, limits ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_a_run_cannot_be_called_after_a_folder_above(kd, name):
    code, _, said = kd("train-teacher", "--model", "mlp", "--name", name)
    assert code == 2
    assert "exists" not in said
    assert f'name: cannot be "{name}"' in said


@pytest.mark.parametrize("name", ["a", "..a", "a..b", "v1.2"])
def test_names_with_dots_are_names(kd, name):
    code, _, _ = kd("train-teacher", "--model", "mlp", "--name", name, "--dry-run", "-q")
    assert code == 0


def test_what_is_measured_is_not_called_a_teacher(kd, tmp_path):
    made = train_teacher(model="mlp", data="digits", out=tmp_path, epochs=1, overrides=QUICK)
    code, _, said = kd("evaluate", made.run, "-d", "synthetic")
    assert code == 2
    assert "network predicts 10 classes, synthetic has 50" in said
    assert "teacher" not in said


@pytest.mark.parametrize(
    ("limit", "shown", "share"),
    [(0.96, "0.960", "96.0"), (0.9999, "0.9999", "99.99"), (1.0, "1.000", "100.0")],
)
def test_a_limit_is_shown_as_it_was_asked_for(limit, shown, share):
    said = io.StringIO()
    gate = GateResult("min_accuracy", limit, 0.95, passed=False)
    show_gates(Environment(io.StringIO(), said, {}), (gate,))
    assert f"gate min-accuracy {shown} > 0.950" in said.getvalue()
    assert f"at least {share}\N{NO-BREAK SPACE}% asked for" in gate_sentence(gate)


@pytest.mark.parametrize("argv", [("recipes", "--json"), ("recipes", "--json", "ls")])
def test_a_global_option_is_taken_before_the_command_of_a_group(kd, argv):
    code, out, _ = kd(*argv)
    assert code == 0
    assert json.loads(out)["status"] == "ok"


def test_data_that_cannot_be_used_are_a_wrong_call(kd, tmp_path):
    pixels = np.zeros((6, 4, 4), np.uint8)
    np.savez("bad.npz", x_train=pixels, y_train=np.arange(5), x_test=pixels, y_test=np.arange(6))
    code, _, said = kd(
        "train-teacher", "--model", "mlp", "-d", "npz", "-s", "data.path=bad.npz", "--epochs", "1"
    )
    assert code == 2
    assert "x_train has 6 samples, y_train 5 labels" in said
