"""Every method as a user runs it: from a recipe to a checkpoint that can be evaluated and
explained, on a few digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcli import catalog
from kdcli.jobs import analyze_gap, distill, evaluate, train_teacher

NAMES = catalog.names("method")
GROUPS = [[0, 6, 8, 9], [1, 4, 7], [2, 3, 5]]  # digits that look alike
SHORT = {
    "data.train_limit": 100,
    "train.epochs": 2,
    "train.batch_size": 32,
    "report.html": False,
    "runtime.threads": 1,
}

# what a method needs beyond a teacher and a student
NEEDS: dict[str, dict[str, Any]] = {
    "fsp": {"student.name": "cnn-large"},  # equal channels
    "kd_rel": {"method.superclasses": GROUPS},
    "kd_pt_rel": {"method.superclasses": GROUPS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def teacher(folder) -> str:
    """A teacher with checkpoints from along its training."""
    run = train_teacher(
        out=folder, model="cnn-large", data="digits", overrides={**SHORT, "train.keep_every": 1}
    )
    assert run is not None
    return run.run


def shortened(name: str) -> dict[str, Any]:
    """Options that make a method's extra stages as short as its main one."""
    own = catalog.options_class(catalog.entry("method", name)).model_fields
    return {f"method.{key}": 1 for key in own if key.endswith("_epochs") and key != "kd_stop_epoch"}


@pytest.mark.parametrize("name", NAMES)
def test_it_distils_evaluates_and_explains(name, teacher, folder):
    most = (catalog.entry("method", name).facts.get("teachers") or (1, 1))[1]
    aliases = {} if most == 0 else {"teacher": teacher}
    options = {
        **SHORT,
        **shortened(name),
        **NEEDS.get(name, {}),
        "report.reference": teacher if most == 0 else None,
    }
    overrides = {key: value for key, value in options.items() if value is not None}
    overrides.setdefault("student.name", "cnn-small")
    run = distill(out=folder, method=name, data="digits", overrides=overrides, **aliases)
    assert run is not None
    assert run.gap is not None
    (again,) = evaluate([run.run]).evaluations
    assert again.measures.accuracy == run.test.accuracy
    report = analyze_gap(teacher, [run.run])
    assert report.pairs[0].at[0].entropy.value == pytest.approx(run.gap.entropy, abs=1e-5)
