"""A trained teacher and two students on digits, made once: small networks, few epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kdcli.jobs import distill, train_teacher
from kdcli.results.run import RunResult

QUICK: Mapping[str, Any] = {"train.epochs": 2, "data.val_fraction": 0.1, "report.html": False}


class Trained(NamedTuple):
    out: Path
    teacher: RunResult
    kd: RunResult
    skd: RunResult


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    out = tmp_path_factory.mktemp("runs")
    teacher = train_teacher(model="mlp", data="digits", name="teacher", out=out, overrides=QUICK)
    small = {**QUICK, "student.hidden": [12]}
    students = [
        distill(
            teacher=str(out / "teacher"),
            method=method,
            student="mlp",
            name=method,
            out=out,
            overrides=small,
        )
        for method in ("kd", "skd")
    ]
    return Trained(out, teacher, *students)
