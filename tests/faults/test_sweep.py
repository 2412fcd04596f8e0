"""Ctrl-C, SIGTERM and kill -9 while several cells of a sweep go on: states are saved, nothing stays
behind, and it goes on.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir, suppress
from pathlib import Path

import pytest

from kdcli.cli.app import run as main
from kdcli.cli.console import Environment
from kdcli.jobs.sweep.workers import machine_cores

pytestmark = pytest.mark.skipif(len(machine_cores()) < 2, reason="needs two cores")

EPOCHS = 3
# as slow as two processes need to get to work, however busy the machine, until a file says go
METHOD = """
import time
from pathlib import Path
from kdcli import losses
from kdcli.core.method import Arity, Method
from kdcli.core.types import Step

class Slow(Method):
    '''Slow.'''
    teachers = Arity(0, 0)

    def loss(self, batch, at):
        if not Path("go").exists():
            time.sleep(0.25)
        out = self.student(batch.x)
        return Step({"ce": losses.cross_entropy(out.logits, batch.y)}, out.logits)
"""
BASE = f"""
[student]
name = "mlp"
hidden = [16]
[method]
name = "slow.py"
[train]
epochs = {EPOCHS}
batch_size = 32
state_seconds = 0.2
[runtime]
threads = 1
[report]
html = false
latency = false
"""
SWEEP = 'base = "base.toml"\n[axes]\nseed = [0, 1, 2]\n'


def start(folder: Path) -> subprocess.Popen[bytes]:
    """A sweep in a process group of its own, as a shell starts it: what a terminal sends reaches
    the workers too.
    """
    (folder / "base.toml").write_text(BASE)
    (folder / "sweep.toml").write_text(SWEEP)
    (folder / "slow.py").write_text(METHOD)
    command = [sys.executable, "-m", "kdcli", "sweep", "sweep.toml", "--jobs", "2", "-q"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for(condition, process, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < end
        time.sleep(0.01)


def states(folder: Path) -> int:
    return len({path.parent for path in folder.glob("runs/*/state/state-*")})


def gone(group: int, seconds: float = 60.0) -> bool:
    """Whether no process of the group is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(ProcessLookupError):
            os.killpg(group, 0)
            time.sleep(0.05)
            continue
        return True
    return False


@pytest.fixture
def at_work(tmp_path):
    """A sweep with two cells in training."""
    process = start(tmp_path)
    try:
        wait_for(lambda: states(tmp_path) == 2, process)
        yield process, tmp_path
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finishes(folder: Path, jobs: str) -> None:
    """The sweep goes on with what was stopped, and runs the rest: in this process if one after
    another, because each process more takes seconds to start.
    """
    stopped = {path.parents[1].name for path in folder.glob("runs/*/state/state-*")}
    assert len(stopped) == 2
    (folder / "go").touch()
    out, errors = io.StringIO(), io.StringIO()
    with chdir(folder):
        argv = ["sweep", "sweep.toml", "--jobs", jobs, "-q", "--json"]
        assert main(argv, Environment(out, errors, {})) == 0, errors.getvalue()
    cells = json.loads(out.getvalue())["data"]["cells"]
    assert [cell["status"] for cell in cells] == ["done"] * 3
    assert stopped < {Path(cell["run"]).name for cell in cells}
    for cell in cells:
        lines = (folder / cell["run"] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines if '"event": "epoch"' in line] == list(
            range(1, EPOCHS + 1)
        )


@pytest.mark.parametrize(
    ("number", "code", "jobs"),
    [(signal.SIGINT, 130, "1"), pytest.param(signal.SIGTERM, 143, "2", marks=pytest.mark.slow)],
)
def test_a_stopped_sweep_saves_every_state_says_how_to_go_on_once_and_does(
    at_work, number, code, jobs
):
    process, folder = at_work
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert errors.decode().count("kd sweep sweep.toml --jobs 2") == 1
    assert "Traceback" not in errors.decode()
    assert gone(process.pid)
    assert not list(folder.glob("runs/*/crash.txt"))
    finishes(folder, jobs)


@pytest.mark.slow
def test_workers_save_and_end_when_their_parent_is_killed(at_work):
    process, folder = at_work
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=120)
    assert gone(process.pid)
    assert not list(folder.glob("runs/*/crash.txt"))
    finishes(folder, "2")


@pytest.mark.slow
def test_a_second_ctrl_c_quits_at_once_and_leaves_no_process(at_work):
    process, _ = at_work
    os.killpg(process.pid, signal.SIGSTOP)  # both arrive before anybody can act on the first
    for number in (signal.SIGINT, signal.SIGCONT):
        os.killpg(process.pid, number)
    time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert gone(process.pid)
