"""A teacher, and a recipe of seconds, for searches."""

from __future__ import annotations

import pytest

from kdcli.errors import Interrupted
from kdcli.jobs import train_teacher
from kdcli.jobs.events import TrialDone

TEACHER = """
[data]
name = "digits"
train_limit = 200
[model]
name = "mlp"
hidden = [48]
[train]
epochs = 3
[report]
html = false
latency = false
probe = 0
"""
STUDENT = """
[data]
name = "digits"
train_limit = 200
[student]
name = "mlp"
[teacher]
recipe = "teacher.toml"
[method]
name = "kd"
[train]
epochs = 3
[report]
html = false
latency = false
probe = 0
"""


@pytest.fixture(scope="session")
def recipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search-recipes")
    (folder / "teacher.toml").write_text(TEACHER)
    (folder / "student.toml").write_text(STUDENT)
    return folder


@pytest.fixture(scope="session")
def teacher(recipes, tmp_path_factory):
    result = train_teacher(recipes / "teacher.toml", out=tmp_path_factory.mktemp("teacher"))
    return result.run


class StopAfter:
    """A listener that stops a search when so many rungs were reached."""

    def __init__(self, rungs: int) -> None:
        self.left = rungs

    def __call__(self, event: object) -> None:
        self.left -= isinstance(event, TrialDone)
        if isinstance(event, TrialDone) and not self.left:
            raise Interrupted("enough")
