"""What `kdcli.jobs` offers is found where it says, and only when it is asked for."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from kdcli import jobs


@pytest.mark.parametrize("name", jobs.__all__)
def test_every_name_is_there_and_no_module_beside_hides_it(name):
    # whoever imports a module of a package sets its name there
    assert not (Path(jobs.__file__).parent / f"{name}.py").exists()
    assert not (Path(jobs.__file__).parent / name).exists()
    found = getattr(jobs, name)
    assert found is getattr(importlib.import_module(found.__module__), name)


def test_checkers_of_types_are_told_the_same_places():
    tree = ast.parse(Path(jobs.__file__).read_text(encoding="utf-8"))
    told = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kdcli.jobs.")
        for alias in node.names
    }
    assert told == jobs._HOME
    assert sorted(told) == sorted(jobs.__all__)


def test_what_nobody_offers_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        jobs.distil  # noqa: B018


def test_a_run_begins_without_what_measures_draws_exports_or_searches():
    program = "import sys; from kdcli.jobs import distill; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    imported = {name for name in done.stdout.splitlines() if name.startswith("kdcli.")}
    later = (
        "report.page",
        "report.figures",
        "jobs.use",
        "jobs.searching",
        "jobs.plan",
        "jobs.sweep",
    )
    assert "kdcli.jobs.train.execution" in imported
    assert not [
        name for name in imported if name.startswith(tuple(f"kdcli.{each}" for each in later))
    ]
    assert "kdcli.jobs.train.final_evaluation" not in imported
