"""kill -9 at random moments, then `kd resume`: the result has the very bytes of a run that nobody
touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcli.core import random
from kdcli.files import sha256_file

RECIPE = """
seed = 3
[data]
name = "digits"
val_fraction = 0.1
[data.augment]
crop = 1
[model]
name = "mlp"
hidden = [16]
dropout = 0.2
[train]
epochs = 40
accumulate = 2
ema = 0.9
select = "best"
state_seconds = 0.02
"""


def kd(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kdcli", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untouched")
    (folder / "recipe.toml").write_text(RECIPE)
    finish(kd("train-teacher", "recipe.toml", "--name", "run", "-q", cwd=folder))
    return folder / "runs" / "run"


def wait_for(condition, process, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("trial", range(3))
def test_a_killed_run_resumes_to_the_same_bytes(untouched, tmp_path, trial):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    run = tmp_path / "runs" / "run"
    process = kd("train-teacher", "recipe.toml", "--name", "run", "-q", cwd=tmp_path)
    wait_for(lambda: any(run.glob("state/state-*")), process)
    # anywhere in the half second that training takes from its first state on, in the middle of a
    # write too
    time.sleep(0.4 * random.uniform_int(random.key(0, "kill"), trial))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    if not (run / "summary.json").exists():
        finish(kd("resume", "runs/run", "-q", cwd=tmp_path))
    assert sha256_file(run / "model.safetensors") == sha256_file(untouched / "model.safetensors")
    epochs = [
        line
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if '"epoch"' in line and '"event": "epoch"' in line
    ]
    assert len(epochs) == 40
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_its_state_says_how_to_go_on_and_does(
    untouched, tmp_path, number, code
):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    run = tmp_path / "runs" / "run"
    process = kd("train-teacher", "recipe.toml", "--name", "run", "-q", cwd=tmp_path)
    wait_for(lambda: any(run.glob("state/state-*")), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"kd resume runs/run" in errors
    finish(kd("resume", "runs/run", "-q", cwd=tmp_path))
    assert sha256_file(run / "model.safetensors") == sha256_file(untouched / "model.safetensors")
