"""The benchmark of kd plan compares like with like."""

from __future__ import annotations

import pytest

from benchmarks import plan


@pytest.mark.slow
def test_each_plan_is_compared_with_the_run_that_follows(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(plan, "IMAGES", 256)
    found = plan.compared(plan.recipe_for(1, tmp_path))
    assert found["values"].keys() == {"seconds", "memory, MiB", "run, kB"}, (
        "one epoch over two views is not worth a table"
    )
    assert all(planned > 0 < measured for planned, measured in found["values"].values())
    plan.show("noise", found)
    assert capsys.readouterr().out.count("noise") == 3
