"""Cells as Slurm jobs, by submitit's local executor: the same runs, queued again when their place is
taken, and no cluster where there is none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kdcli.errors import UsageError
from kdcli.files import read_json
from kdcli.jobs import run_sweep
from kdcli.jobs.events import CellDone
from kdcli.jobs.sweep import slurm_jobs
from kdcli.jobs.sweep.executor import Place
from kdcli.jobs.sweep.slurm_jobs import _minutes
from tests.unit.jobs.sweep.pairs import STUDENT, TEACHER

SLURM = Place("slurm")
SWEEP = """
base = "base.toml"
[axes]
seed = [0]
[[axes.epochs]]
label = "long"
[[axes.epochs]]
label = "diverging"
set = { "optim.lr" = 1e11 }
"""


@pytest.fixture
def sweep(tmp_path):
    for name, text in (("teacher", TEACHER), ("base", STUDENT), ("sweep", SWEEP)):
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path / "sweep.toml"


def test_without_slurm_it_says_so(sweep, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="sbatch is not found"):
        run_sweep(sweep, out=tmp_path / "runs", jobs="auto", place=SLURM)
    assert not (tmp_path / "runs" / slurm_jobs.FOLDER).exists()


def test_times_are_those_of_sbatch():
    assert [_minutes(text) for text in ("90", "1:30:00", "1-02", "0:00:30")] == [90, 90, 1560, 1]
    with pytest.raises(UsageError, match="not minutes"):
        _minutes("soon")


def _training(out: Path) -> int:
    """The process of a student that has been trained for some epochs, once there is one."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for log in out.glob("kd-*/log.txt"):
            if "epoch=3/" in log.read_text():
                return _holder(log.parent / ".lock")
        time.sleep(0.02)
    raise AssertionError("no student was trained")


def _holder(lock: Path) -> int:
    """The process that has a file open."""
    for number in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):
            if any(
                _opened(each) == lock.resolve() for each in Path(f"/proc/{number}/fd").iterdir()
            ):
                return number
    raise AssertionError(f"nobody holds {lock}")


def _opened(descriptor: Path) -> Path | None:
    try:
        return descriptor.readlink()
    except OSError:  # closed by now
        return None


# the controllers of submitit's local jobs end by themselves, some time after what they controlled
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_whose_place_is_taken_is_queued_again_and_goes_on(
    sweep, tmp_path, monkeypatch, number
):
    pytest.importorskip("submitit")
    monkeypatch.setattr(slurm_jobs, "CLUSTER", "local")
    out = tmp_path / "runs"
    heard = []
    thread = threading.Thread(target=lambda: os.kill(_training(out), number), daemon=True)
    thread.start()
    result = run_sweep(
        sweep,
        out=out,
        jobs="auto",
        place=SLURM,
        listeners=[lambda event: heard.append(event) if isinstance(event, CellDone) else None],
    )
    thread.join()
    assert [cell.status for cell in result.cells] == ["done", "failed"]
    assert "not finite" in result.cells[1].error
    whole = run_sweep(sweep, out=tmp_path / "whole", limit=1)
    ours, theirs = (
        read_json(Path(found.cells[0].run) / "summary.json") for found in (result, whole)
    )
    # it went on from its state: nothing was trained twice, and nothing else came out
    assert ours["test"] == theirs["test"]
    log = (Path(result.cells[0].run) / "log.txt").read_text()
    assert log.count("epoch=12/12") == 1
    assert len(list(out.glob("kd-*"))) == 2  # of which one never came to an end
    assert not list((out / slurm_jobs.FOLDER).glob("*"))
    assert {event.status for event in heard} == {"done", "failed"}
