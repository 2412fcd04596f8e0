"""Each exit code, from the place that gives it. The table is closed: scripts rely on it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kdcli.cli.console import stop_on_sigterm
from kdcli.errors import BadData, CorruptFile, Interrupted, NonFiniteLoss, OutOfMemory, Terminated
from kdcli.results.measures import GateResult
from kdcli.results.sweep import CellResult, SweepResult
from tests.cli.conftest import result

MISSED = GateResult("min_accuracy", 0.98, 0.972, passed=False)
MET = GateResult("min_accuracy", 0.96, 0.972, passed=True)


def test_0_when_done_and_all_gates_passed(kd, pretend):
    pretend("distill", result(gates=(MET,)))
    answer = kd("distill", "--min-accuracy", "0.96")
    assert answer.code == 0
    assert "✓ gate min-accuracy 0.960 ≤ 0.972" in answer.err


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemory(
            "out of GPU memory at stage distill", hint="kd distill r.toml -s train.batch_size=256"
        ),
        NonFiniteLoss("loss ce is NaN at epoch 3"),
        ZeroDivisionError("division by zero"),
    ],
)
def test_1_when_it_ran_and_broke(kd, pretend, error):
    pretend("distill", error)
    answer = kd("distill")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert str(error) in answer.err


def test_1_shows_the_traceback_only_when_asked_and_always_where_it_is_kept(kd, pretend):
    error = ZeroDivisionError("division by zero")
    error.crash_file = Path("runs/x/crash.txt")
    pretend("distill", error)
    assert "runs/x/crash.txt" in kd("distill").err
    assert "Traceback" in kd("distill", "--debug").err
    assert "Traceback" in kd("--debug", "distill").err
    assert "Traceback" in kd("distill", environ={"KD_DEBUG": "1"}).err


@pytest.mark.parametrize(
    "argv",
    [
        ("distil",),
        ("distill", "--no-such-flag"),
        ("distill", "--epochs", "many"),
        ("distill", "nowhere.toml"),
        ("distill", "-s", "train.epochs=-1"),
        ("distill", "-s", "train.epochs=3", "--epochs", "4"),
        ("distill", "--teacher", "nowhere"),
        ("evaluate", "nowhere"),
        ("evaluate",),
        ("analyze-gap",),
        ("analyze-gap", "--temperature", "hot"),
        ("resume", "nowhere"),
        ("compare", "nowhere", "elsewhere"),
        ("report", "nowhere"),
        ("sweep", "nowhere"),
        ("table", "tables/energy-table7", "--format", "pdf"),
        ("table", "tables/energy-table7", "--plot", "table.pdf"),
        ("check", "nowhere.toml"),
        ("methods", "nothing"),
        ("models", "nothing"),
        ("models", "nothing*"),
        ("datasets", "nothing"),
        ("datasets", "digits", "--download"),
        ("datasets", "--download"),
        ("recipes", "show", "nothing"),
        ("recipes", "dance"),
        ("--color", "sometimes", "methods"),
        ("-q",),
    ],
)
def test_2_when_the_call_is_wrong(kd, argv):
    answer = kd(*argv)
    assert answer.code == 2
    assert answer.out == ""
    assert "error: " in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("error", [CorruptFile("m is truncated"), BadData("x has no y_test")])
def test_2_when_a_file_cannot_be_used(kd, pretend, error):
    pretend("distill", error)
    answer = kd("distill")
    assert answer.code == 2
    assert str(error) in answer.err


def test_1_when_such_a_file_is_met_in_a_run(kd, monkeypatch):
    def damaged(*_: object) -> None:
        raise BadData("train/cat/3.png is damaged")

    monkeypatch.setattr("kdcli.engine.trainer.Trainer.run", damaged)
    answer = kd("train-teacher", "--model", "mlp", "-d", "digits", "--epochs", "1")
    assert answer.code == 1
    assert "crash.txt" in answer.err


def test_2_when_a_limit_is_no_fraction(kd, tmp_path):
    answer = kd("evaluate", str(tmp_path), "--min-accuracy", "95")
    assert answer.code == 2
    assert "--min-accuracy must be less than or equal to 1" in answer.err
    assert "a fraction is meant: 0.95, not 95" in answer.err
    answer = kd("evaluate", str(tmp_path), "--min-accuracy", "nan")
    assert answer.code == 2
    assert "--min-accuracy must be a finite number, got nan" in answer.err


@pytest.mark.parametrize("job", ["distill", "train_teacher"])
def test_3_when_a_gate_is_missed_after_everything_was_shown(kd, pretend, job):
    command = job.replace("_", "-")
    pretend(job, result(command, gates=(MISSED,)))
    answer = kd(command, "--min-accuracy", "0.98")
    assert answer.code == 3
    assert "✗ gate min-accuracy 0.980 > 0.972    checkpoint and report are complete" in answer.err
    assert "report" in answer.err.splitlines()[-2]


SWEEP = 'base = "quickstart"\n[axes]\nseed = [0, 1]\n'


@pytest.mark.parametrize(
    ("statuses", "code"),
    [(("done", "skipped"), 0), (("done", "failed"), 4), (("failed", "failed"), 1)],
)
def test_4_when_some_cells_of_a_sweep_failed(kd, pretend, tmp_path, statuses, code):
    (tmp_path / "sweep.toml").write_text(SWEEP)
    cells = tuple(
        CellResult(
            str(n), {"seed": str(n)}, status, error="no memory" if status == "failed" else None
        )
        for n, status in enumerate(statuses)
    )
    pretend("run_sweep", SweepResult("sweep.toml", 2, cells))
    answer = kd("sweep", "sweep.toml")
    assert answer.code == code
    assert ("no memory" in answer.err) == (code != 0)


def test_130_when_interrupted_names_the_command_that_goes_on(kd, pretend):
    pretend("distill", Interrupted("interrupted; the state is saved", hint="kd resume runs/x"))
    answer = kd("distill")
    assert answer.code == 130
    assert "kd resume runs/x" in answer.err


def test_130_when_interrupted_where_no_state_is_kept(kd, pretend):
    pretend("doctor", KeyboardInterrupt())
    assert kd("doctor").code == 130


def test_143_when_terminated(kd, pretend):
    pretend("distill", Terminated("terminated; the state is saved", hint="kd resume runs/x"))
    assert kd("distill").code == 143


def test_143_when_terminated_where_no_state_is_kept(kd, monkeypatch):
    previous = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("kdcli.jobs.doctor", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    try:
        stop_on_sigterm()
        answer = kd("doctor", "--json")
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert answer.code == 143
    assert answer.json["status"] == "interrupted"
