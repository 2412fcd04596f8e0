"""Both sides of the benchmark of --jobs do the same work."""

from __future__ import annotations

import json

import pytest

from benchmarks import sweep
from kdcli.jobs.sweep.workers import machine_cores


@pytest.mark.slow
@pytest.mark.skipif(len(machine_cores()) < 2, reason="needs two cores")
def test_the_same_sweep_is_timed_both_ways(pair, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "PAIR", pair)
    found = json.loads(json.dumps(sweep.measure(jobs=2, cells=2, epochs=1, batches=2, rounds=1)))
    for name in ("one", "several"):
        assert 0 < found["seconds_to_first_step"][name][0] < found["seconds"][name][0]
    assert found["ratio"]["median"] == pytest.approx(
        found["seconds"]["one"][0] / found["seconds"]["several"][0]
    )
    sweep.show(found, 2)
    assert "2 cells at a time" in capsys.readouterr().out
