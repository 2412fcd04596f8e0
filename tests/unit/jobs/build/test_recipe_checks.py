"""What is refused before anything is opened: a divided teacher where there is nothing to divide."""

from __future__ import annotations

import pytest

from kdcli.errors import UsageError
from kdcli.jobs.build.recipe_checks import check_sharded
from kdcli.recipe.resolve import resolve


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        ("distill", {"teacher.recipe": "quickstart-teacher"}, "and this is one"),
        (
            "distill",
            {"teacher.logits": "a.npz", "runtime.devices": 2},
            "ready-made answers (teacher.logits) have none",
        ),
        (
            "distill",
            {"teacher": [], "method.name": "tf_kd", "runtime.devices": 2},
            "there is no teacher",
        ),
        ("train-teacher", {"model.name": "mlp", "runtime.devices": 2}, "has no teacher"),
    ],
)
def test_a_teacher_is_divided_only_where_there_is_one_and_several_devices(kind, values, problem):
    student = {"student.name": "mlp"} if kind == "distill" else {}
    given = {"data.name": "digits", **student, **values, "runtime.shard_teacher": True}
    with pytest.raises(UsageError) as found:
        check_sharded(resolve(kind, values=given).recipe)
    assert problem in found.value.message
