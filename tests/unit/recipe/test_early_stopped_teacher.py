"""A teacher that stops early: what [teacher] may say of it, what becomes of its recipe, and that
its content says so.
"""

from __future__ import annotations

import pytest

from kdcli.errors import UsageError
from kdcli.recipe.resolve import resolve, resolve_teacher
from kdcli.recipe.writing import dump, recipe_hash
from tests.unit.recipe.conftest import refused, told

TEACHER = """
[data]
name = "digits"
[model]
name = "mlp"
[train]
epochs = 240
[schedule]
"""
MULTISTEP = TEACHER + 'name = "multistep"\nmilestones = [150, 180, 210]\nwarmup_epochs = 12\n'
COSINE = TEACHER + 'name = "cosine"\n'


@pytest.fixture
def student(write):
    """Resolves a distill recipe whose [teacher] says what a test gives."""

    def make(**teacher):
        write("teacher.toml", MULTISTEP)
        text = "".join(
            f"{key} = {value!r}\n" for key, value in {"recipe": "teacher.toml", **teacher}.items()
        )
        write("student.toml", f'[student]\nname = "mlp"\n[method]\nname = "kd"\n[teacher]\n{text}')
        return resolve("distill", file="student.toml", environ={}).recipe

    return make


def schedule_of(recipe, *asked):
    found = resolve_teacher(recipe, *asked, environ={}).recipe
    return found.train.epochs, found.schedule


def test_milestones_and_warm_up_are_scaled_in_proportion(write):
    epochs, schedule = schedule_of(write("teacher.toml", MULTISTEP), 40)
    assert (epochs, schedule.milestones, schedule.warmup_epochs) == (40, (25, 30, 35), 2.0)


def test_a_milestone_is_never_before_the_first_epoch(write):
    assert schedule_of(write("teacher.toml", MULTISTEP), 1, "scaled")[1].milestones == (1, 1, 1)


def test_a_scaled_cosine_ends_with_the_shorter_training(write):
    epochs, schedule = schedule_of(write("teacher.toml", COSINE), 40, "scaled")
    assert (epochs, schedule.epochs) == (40, None)


def test_a_truncated_schedule_keeps_the_rates_of_the_full_length(write):
    assert schedule_of(write("teacher.toml", COSINE), 40, "truncated")[1].epochs == 240
    epochs, schedule = schedule_of(write("teacher.toml", MULTISTEP), 160, "truncated")
    assert (epochs, schedule.milestones, schedule.warmup_epochs) == (160, (150, 180, 210), 12.0)


def test_the_first_screen_says_what_was_changed(write):
    (note,) = resolve_teacher(write("teacher.toml", MULTISTEP), 40, environ={}).notes
    assert note.startswith(
        "a teacher of 40 epochs instead of 240, scaled: train.epochs = 40, "
        "schedule.milestones = [25, 30, 35]"
    )


def test_the_content_of_student_and_teacher_changes_with_the_length(student):
    plain = student()
    hashes = {
        recipe_hash(student(**asked))
        for asked in ({"epochs": 40}, {"epochs": 80}, {"epochs": 40, "schedule": "truncated"})
    }
    assert len(hashes | {recipe_hash(plain)}) == 4
    assert recipe_hash(student(epochs=40)) == recipe_hash(student(epochs=40, schedule="scaled"))
    teachers = {
        recipe_hash(resolve_teacher("teacher.toml", *asked, environ={}).recipe)
        for asked in ((), (40,), (40, "truncated"))
    }
    assert len(teachers) == 3


def test_a_resolved_recipe_re_reads_to_the_same(student, write):
    recipe = student(epochs=40, schedule="truncated")
    assert resolve("distill", file=write("again.toml", dump(recipe)), environ={}).recipe == recipe
    assert resolve_teacher("teacher.toml", 40, "scaled", environ={}).recipe == resolve(
        "train-teacher", file=write("t.toml", dump(resolve_teacher("teacher.toml", 40, environ={}).recipe)), environ={}
    ).recipe  # fmt: skip


def test_another_source_for_the_teacher_drops_the_length(student, checkpoint):
    student(epochs=40)
    found = resolve(
        "distill", file="student.toml", sets=[f"teacher.checkpoint={checkpoint()}"], environ={}
    ).recipe
    assert (found.teacher[0].recipe, found.teacher[0].epochs) == (None, None)


def test_a_method_without_a_teacher_has_no_longer_one_to_compare_with(student):
    student(epochs=40)
    found = resolve(
        "distill", file="student.toml", sets=["method.name=none"], environ={}, spare_teachers=True
    ).recipe
    assert (found.teacher, found.report.reference) == ((), None)


def test_a_method_without_a_teacher_compares_with_none_that_a_name_does_not_describe(student):
    student(size=16)
    found = resolve(
        "distill", file="student.toml", sets=["method.name=none"], environ={}, spare_teachers=True
    ).recipe
    assert (found.teacher, found.report.reference) == ((), None)
    student()
    found = resolve(
        "distill", file="student.toml", sets=["method.name=none"], environ={}, spare_teachers=True
    ).recipe
    assert str(found.report.reference).endswith("teacher.toml")


# ---- refusals ------------------------------------------------------------------------------------


def test_a_length_without_a_recipe_is_refused(checkpoint):
    error = refused(
        sets=[f"teacher.checkpoint={checkpoint()}", "teacher.epochs=40", "student.name=mlp"]
    )
    ((problem, hint, _),) = told(error).values()
    assert "epochs goes with recipe" in problem
    assert "RUN/checkpoints" in hint


def test_a_schedule_without_a_length_is_refused(write):
    write("teacher.toml", MULTISTEP)
    error = refused(
        sets=["teacher.recipe=teacher.toml", "teacher.schedule=scaled", "student.name=mlp"]
    )
    assert "epochs is not given" in told(error)["teacher.schedule"][0]


@pytest.mark.parametrize(
    "sets",
    [["teacher.epochs=0"], ["teacher.epochs=no"], ["teacher.epochs=4", "teacher.schedule=halved"]],
)
def test_nonsense_is_told_by_its_key(write, sets):
    write("teacher.toml", MULTISTEP)
    error = refused(sets=["teacher.recipe=teacher.toml", "student.name=mlp", *sets])
    assert set(told(error)) == {sets[-1].partition("=")[0]}


def test_what_is_longer_cannot_be_cut_off(student):
    with pytest.raises(
        UsageError, match=r"teacher\.epochs is 300, and the teacher's recipe trains for 240"
    ):
        student(epochs=300, schedule="truncated")
    assert student(epochs=300).teacher[0].epochs == 300
