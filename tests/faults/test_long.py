"""A run of many steps takes no more memory and no more handles than a short one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdcli.jobs import distill, train_teacher
from kdcli.jobs.events import EpochDone

STEPS, AN_EPOCH = 20_000, 50
QUICK = {"data.train_limit": 400, "train.batch_size": 8, "report.html": False, "report.probe": 0}


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read memory from")
def test_memory_and_handles_stay_flat_over_twenty_thousand_steps(tmp_path):
    teacher = train_teacher(model="mlp", data="digits", out=tmp_path, epochs=1, overrides=QUICK)
    memory, handles = [], []

    def watch(event: object) -> None:
        if isinstance(event, EpochDone):
            memory.append(resident_mib())
            handles.append(len(list(Path("/proc/self/fd").iterdir())))

    distill(
        teacher=teacher.run,
        method="kd",
        student="mlp",
        out=tmp_path,
        epochs=STEPS // AN_EPOCH,
        overrides={**QUICK, "train.state_seconds": 0.5},
        listeners=[watch],
    )
    quarter = len(memory) // 4
    assert len(memory) == STEPS // AN_EPOCH
    early, late = memory[quarter : 2 * quarter], memory[-quarter:]
    assert max(late) - max(early) < 8, (max(early), max(late))
    assert max(handles[-quarter:]) <= max(handles[quarter : 2 * quarter])
