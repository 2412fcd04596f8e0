"""Cells as Ray tasks: the same runs as of this machine's processes, also where a machine of the
cluster is lost in the middle.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from kdcli.errors import UsageError
from kdcli.files import read_json
from kdcli.jobs import run_sweep
from kdcli.jobs.sweep.executor import Place, open_cluster
from kdcli.recipe.sweep.cells import load_sweep
from kdcli.report.tables.sweep import sweep_results
from tests.unit.jobs.sweep.pairs import EPOCHS, STUDENT, TEACHER


@pytest.fixture
def sweep(tmp_path):
    for name, text in (("teacher", TEACHER), ("base", STUDENT)):
        (tmp_path / f"{name}.toml").write_text(text)
    path = tmp_path / "sweep.toml"
    path.write_text('base = "base.toml"\n[axes]\nseed = [0, 1]\n')
    return path


def test_without_ray_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="needs ray, which is not installed"):
        open_cluster(Place("ray"), 1, 1, tmp_path)
    with pytest.raises(UsageError, match="at least one task"):
        open_cluster(Place("ray", cpus=0), 1, 1, tmp_path)


def _when_both_train(out: Path, do) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        logs = [log.read_text() for log in out.glob("kd-*/log.txt")]
        if len(logs) == 2 and all("epoch=2/" in log for log in logs):
            do()
            return
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what Ray leaves to the garbage collector
def test_a_machine_is_lost_and_its_cell_goes_on_elsewhere(sweep, tmp_path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    out = tmp_path / "runs"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        place = Place("ray", cpus=1, address=cluster.address)
        with pytest.raises(UsageError, match="no machine of the Ray cluster has 2 cores"):
            open_cluster(Place("ray", cpus=2, address=cluster.address), 1, 1, out)
        lost = []

        def lose() -> None:
            lost.append(cluster.remove_node(second, allow_graceful=False))

        thread = threading.Thread(target=_when_both_train, args=(out, lose), daemon=True)
        thread.start()
        result = run_sweep(sweep, out=out, jobs="auto", place=place)
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost
    assert [cell.status for cell in result.cells] == ["done", "done"]
    # the same ids, folder and table as of this machine
    whole = run_sweep(sweep, out=tmp_path / "whole")
    for ours, theirs in zip(result.cells, whole.cells, strict=True):
        assert ours.id == theirs.id
        found, wanted = (read_json(Path(each.run) / "summary.json") for each in (ours, theirs))
        assert found["test"] == wanted["test"]
        assert (Path(ours.run) / "log.txt").read_text().count(f"epoch={EPOCHS}/{EPOCHS}") == 1
    assert len(list(out.glob("kd-*"))) == 2
    assert all(run is not None for _, run in sweep_results(load_sweep(sweep), out).results)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match=r"there is no Ray cluster at 127\.0\.0\.1:1"):
        open_cluster(Place("ray", address="127.0.0.1:1"), 1, 1, tmp_path)
