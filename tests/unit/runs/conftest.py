"""The runs that the report's tests read."""

from tests.unit.report.conftest import run_folder, teacher_folder

__all__ = ["run_folder", "teacher_folder"]
