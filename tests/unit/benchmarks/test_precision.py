"""The benchmark of precisions measures what it says, in little."""

from __future__ import annotations

import pytest

from benchmarks.precision import STUDENTS, TEACHERS, measure, shape_of, student, teacher
from kdcli.catalog import names


@pytest.mark.parametrize("make", [student, teacher])
def test_a_network_is_measured_in_both_precisions(make, capsys):
    found = measure("cnn-small:1x8x8", make, compiled=False, rounds=2, seconds=0.001)
    assert found["speeds"].keys() == {"fp32 plain", "bf16 plain"}
    assert all(speed > 0 for rounds in found["speeds"].values() for speed in rounds)
    assert 120 < found["values"] < 140
    assert "bf16 / fp32" in capsys.readouterr().out


def test_the_networks_exist():
    assert {shape_of(case)[0] for case in (*STUDENTS, *TEACHERS)} <= set(names("model"))
