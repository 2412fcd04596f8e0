"""tf_kd takes a teacher or none: both are valid, two are not. kd_rel takes none, and says so."""

from __future__ import annotations

from kdcli.recipe.resolve import Flag, resolve
from tests.unit.recipe.conftest import refused, told

TF_KD = Flag("--method", "method.name", "tf_kd")


def test_with_a_teacher_it_can_listen_to_it(checkpoint):
    teacher = Flag("--teacher", "teacher.checkpoint", str(checkpoint()))
    recipe = resolve(
        "distill",
        flags=[TF_KD, teacher],
        sets=["method.mode=self", "student.name=cnn-large"],
        environ={},
    ).recipe
    assert (recipe.method.mode, len(recipe.teacher), recipe.student.name) == (
        "self",
        1,
        "cnn-large",
    )


def test_without_a_teacher_it_needs_none(here, write):
    student = Flag("--student", "student.name", "cnn-large")
    assert resolve("distill", flags=[TF_KD, student], environ={}).recipe.method.mode == "reg"
    path = write("r.toml", '[method]\nname = "tf_kd"\n[student]\nname = "cnn-small"\n')
    assert resolve("distill", file=path, environ={}).recipe.teacher == ()
    assert resolve("train-teacher", flags=[TF_KD], environ={}).recipe.method.mode == "reg"


def test_a_teacher_that_nobody_named_is_no_reference_of_other_data(here):
    alone = {"method.name": "none", "student.name": "lstm_small", "data.name": "python-reference"}
    assert resolve("distill", values=alone, environ={}).recipe.report.reference is None
    digits = {"method.name": "none", "student.name": "cnn-small"}
    assert resolve("distill", values=digits, environ={}).recipe.report.reference is not None


def test_two_teachers_are_one_too_many(write, checkpoint):
    checkpoint()
    given = '[[teacher]]\ncheckpoint = "runs/t"\n' * 2
    path = write("r.toml", f'{given}[method]\nname = "tf_kd"\n[student]\nname = "cnn-small"\n')
    assert told(refused(file=path))["teacher"][0].endswith("got 2")


def test_a_hierarchy_of_classes_is_no_pupil(write, checkpoint):
    checkpoint()
    text = (
        '[teacher]\ncheckpoint = "runs/t"\n[method]\nname = "kd_rel"\nsuperclasses = [[0, 1], '
        '[2, 3, 4, 5, 6, 7, 8, 9]]\n[student]\nname = "cnn-small"\n'
    )
    problem, hint, _ = told(refused(file=write("r.toml", text)))["teacher"]
    assert (problem, hint) == ("kd_rel takes no teacher, got 1", "leave [teacher] out")
    alone = write("alone.toml", text.partition("\n")[2].partition("\n")[2])
    assert resolve("distill", file=alone, environ={}).recipe.method.superclasses == (
        (0, 1),
        (2, 3, 4, 5, 6, 7, 8, 9),
    )
