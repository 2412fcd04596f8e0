"""Runs for the report to read; fake_run writes them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kdcli.report.figures import svg
from tests.unit.report import fake_run


@pytest.fixture(scope="module", autouse=True)
def _as_users_see_it() -> Iterator[None]:
    """Figures are laid out here, and in no other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svg, "LAYOUT", "constrained")
        yield


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A finished distillation."""
    return fake_run.write_student(tmp_path / "runs" / "skd-cnn-small-digits-1")


@pytest.fixture
def teacher_folder(tmp_path) -> Path:
    """A finished training on labels, nothing held out."""
    return fake_run.write_teacher(tmp_path / "runs" / "cnn-large-digits-1")
