"""What a sweep with several jobs shows: a line for each cell that goes on, on a terminal; whose
line it is, in a log.
"""

from __future__ import annotations

import re

import pytest

from kdcli.jobs.events import (
    CellDone,
    CellStarted,
    FromRun,
    StepDone,
    StepRead,
    SweepStarted,
    TeacherDone,
    TeacherStarted,
)
from kdcli.results.sweep import CellResult, SweepResult
from tests.cli.conftest import Terminal, prepared, training

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LABELS = [
    {"method.name": "kd", "pair": "resnet56 to resnet20"},
    {"method.name": "skd", "pair": "resnet56 to resnet20"},
    {"method.name": "no"},
]

LOG = """\
kd 0.1.0 · sweep · 3 cells, 2 at once
  device   cpu · 1 thread each, on cores of its own
  teachers 1 to train before the cells that need it

  · skipped: done before  3/3 method.name=no  runs/no-1
TIME teacher=big stage=distill epoch=1/1 step=23/23 lr=0.05 ce=0.231 skd=1.902 train_acc=0.940 val_acc=0.978 img_s=21034
  ✓ done  teacher big  98.0 %  runs/big-1  (1/3 cells, 0 running)
  note     logits are stored
TIME cell=1/3 method.name=kd pair="resnet56 to resnet20" stage=distill epoch=1/2 step=23/46 lr=0.05 ce=0.231 skd=1.902 train_acc=0.690 \
val_acc=0.878 img_s=21034
TIME cell=1/3 method.name=kd pair="resnet56 to resnet20" stage=distill epoch=2/2 step=46/46 lr=0.05 ce=0.231 skd=1.902 train_acc=0.940 \
val_acc=0.978 img_s=21034
  ✓ done  1/3 method.name=kd pair="resnet56 to resnet20"  97.2 %  runs/kd-1  (2/3 cells, 1 running)
  ✗ failed  2/3 method.name=skd pair="resnet56 to resnet20"  its process was killed by SIGKILL  (3/3 cells, 0 running)
error: method.name=skd pair=resnet56 to resnet20: its process was killed by SIGKILL
  next     kd table sweep.toml
  pages    kd report RUN draws the page of a run
"""


def said(key: str, number: int, epochs: int = 2):
    """What a worker passes on of a run: steps as they were read."""
    for event in (prepared(notes=("logits are stored",)) if number else None, *training(epochs)):
        if isinstance(event, StepDone):
            event = StepRead(  # noqa: PLW2901
                event.at,
                event.batch,
                event.batches,
                event.lr,
                {"ce": 0.231},
                0.9,
                event.images_per_second,
            )
        if event is not None:
            yield FromRun(key, number, "teacher big" if not number else "", event)


@pytest.fixture
def sweep(pretend, tmp_path):
    """A sweep of three cells: one done, one that failed, one that had been done before."""
    (tmp_path / "base.toml").write_text('[model]\nname = "mlp"\n')
    (tmp_path / "sweep.toml").write_text('base = "base.toml"\n[axes]\nseed = [0, 1]\n')
    ended = [
        ("done", "runs/kd-1", None),
        ("failed", None, "its process was killed by SIGKILL"),
        ("skipped", "runs/no-1", None),
    ]
    cells = [
        CellResult(str(n), labels, *end)
        for n, (labels, end) in enumerate(zip(LABELS, ended, strict=True), 1)
    ]
    events = [
        SweepStarted(3, 3, 1, 2, 1, "cpu", pinned=True),
        CellStarted(3, 3, "3", LABELS[2]),
        CellDone(3, 3, "3", LABELS[2], "skipped", "runs/no-1"),
        TeacherStarted("t", "teacher big"),
        *said("t", 0, 1),
        TeacherDone("t", "teacher big", "done", "runs/big-1", metrics={"accuracy": 0.98}),
        CellStarted(1, 3, "1", LABELS[0]),
        CellStarted(2, 3, "2", LABELS[1]),
        *said("1", 1),
        CellDone(1, 3, "1", LABELS[0], "done", "runs/kd-1", metrics={"accuracy": 0.972}),
        CellDone(2, 3, "2", LABELS[1], "failed", error="its process was killed by SIGKILL"),
    ]
    return pretend("run_sweep", SweepResult("sweep.toml", 3, tuple(cells)), events)


def test_a_log_says_whose_each_line_is(kd, sweep):
    answer = kd("sweep", "sweep.toml", "--jobs", "2")
    assert STAMP.sub("TIME", answer.err) == LOG
    assert answer.code == 4
    assert sweep[0]["jobs"] == 2


def test_a_terminal_has_a_line_for_each_cell_and_one_for_all(kd, sweep):
    err = kd(
        "sweep",
        "sweep.toml",
        "--jobs",
        "auto",
        stderr=Terminal(),
        environ={"COLUMNS": "80", "TERM": "xterm-256color"},
    ).err
    lines = re.split(r"[\r\n]+", ESCAPE.sub("", err))
    assert max(len(line) for line in lines) <= 80
    assert any(re.search(r"1/3 cells, 2 running .*left", line) for line in lines)
    assert '  ✓ done  1/3 method.name=kd pair="resnet56 to resnet20"  97.2 %  runs/kd-1' in (
        line.rstrip() for line in lines
    )
    assert sweep[0]["jobs"] == "auto"


def test_quiet_says_only_what_came_out(kd, sweep):
    assert (
        kd("sweep", "sweep.toml", "--jobs", "2", "-q").out
        == "✗ 3 cells: 1 done, 1 failed, 1 skipped\n"
    )


@pytest.mark.parametrize("jobs", ["0", "-3", "4096", "many", "1.5"])
def test_jobs_that_make_no_sense_are_refused_before_anything_is_written(kd, tmp_path, jobs):
    (tmp_path / "base.toml").write_text('[model]\nname = "mlp"\n')
    (tmp_path / "sweep.toml").write_text('base = "base.toml"\n[axes]\nseed = [0, 1]\n')
    answer = kd("sweep", "sweep.toml", "--jobs", jobs, "--json")
    assert answer.code == 2
    assert answer.json["errors"][0]["code"] == "USAGE"
    assert f"--jobs {jobs}" in answer.err or f"got {jobs!r}" in answer.err
    assert not (tmp_path / "runs").exists()
