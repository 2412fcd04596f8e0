"""Distillation without a class, and from few images a class: what is trained on, what is said, and
what is refused by name.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from kdcli.core.classes import shown
from kdcli.errors import Interrupted, RecipeInvalid, UsageError
from kdcli.files import read_json, sha256_file
from kdcli.jobs import analyze_gap, distill, evaluate, resume, run_sweep, train_teacher
from kdcli.jobs.build.data_subset import class_numbers
from kdcli.jobs.build.datasets import open_source
from kdcli.jobs.build.job import build_job
from kdcli.jobs.events import EpochDone, Prepared
from kdcli.jobs.train.asking import teacher_answers
from kdcli.recipe.resolve import resolve
from kdcli.recipe.schema import DataSection, branch
from kdcli.results.intervals import wilson
from kdcli.results.weights_header import read_header

QUICK = {
    "train.epochs": 1,
    "data.val_fraction": 0.1,
    "data.name": "digits",
    "student.name": "mlp",
    "student.hidden": [12],
    "report.html": False,
}
FEW = {"data.per_class": 9, "data.select": "entropy"}


@pytest.fixture(scope="module")
def teacher(trained) -> str:
    return str(trained.out / "teacher")


def job(teacher, method="kd", **data):
    """A distillation that is assembled and not run."""
    given = {"report.reference": teacher} if method == "none" else {"teacher.checkpoint": teacher}
    values = {
        **QUICK,
        "method.name": method,
        **given,
        **{f"data.{key}": value for key, value in data.items()},
    }
    return build_job(resolve("distill", values=values, environ={}).recipe, lambda path: path)


# ---- which classes -------------------------------------------------------------------------------


def test_a_number_means_the_class_of_that_name_first_and_text_means_names_alone():
    names = ("1", "10", "2", "cat")
    assert class_numbers([1], names) == class_numbers(["1"], names) == (0,)
    assert class_numbers([10, 2], names) == (1, 2)
    assert class_numbers([3], names) == class_numbers(["cat"], names) == (3,)
    with pytest.raises(UsageError, match="no class is called '3'"):
        class_numbers(["3"], names)
    assert [shown(number, names) for number in range(4)] == [
        "1 (number 0)",
        "10 (number 1)",
        "2",
        "cat (number 3)",
    ]


@pytest.mark.parametrize(
    ("exclude", "message", "hint"),
    [
        (["owls"], "no class is called 'owls'", "did you mean 'owl'"),
        (["3"], "no class is called '3'", "classes are cat, dog, owl, fox"),
        ([4], "there is no class 4", "numbered 0 to 3"),
        ([0, 1, 2, "fox"], "leaves no class", "leave one class in"),
    ],
)
def test_classes_that_cannot_be_left_out_are_refused_by_name(exclude, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        class_numbers(exclude, ("cat", "dog", "owl", "fox"))
    assert hint in caught.value.hint


def test_a_name_that_two_classes_share_needs_the_number():
    with pytest.raises(UsageError, match="several classes are called 'crane'") as caught:
        class_numbers(["crane"], ("crane", "owl", "crane"))
    assert "0 and 2" in caught.value.hint
    assert class_numbers([2], ("crane", "owl", "crane")) == (2,)


# ---- which images --------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["entropy", "entropy-ascending", "stratified"])
@pytest.mark.parametrize("temperature", [9.0, 2.0])
def test_images_are_those_that_a_direct_computation_of_the_entropy_picks(
    teacher, select, temperature
):
    plain = job(teacher)
    restricted = job(
        teacher,
        per_class=9,
        select=select,
        select_temperature=temperature,
        exclude_classes=[3, "7"],
    )
    # everything that is not held out
    answers = teacher_answers(plain, plain.teachers[0].teacher, "train")
    v, y = answers.logits, answers.targets
    expected = []
    for label in (0, 1, 2, 4, 5, 6, 8, 9):
        ranked = []
        for row in torch.nonzero(y == label).flatten().tolist():
            odds = [
                math.exp((value - max(v[row].tolist())) / temperature) for value in v[row].tolist()
            ]
            p = [value / sum(odds) for value in odds]
            ranked.append((-sum(value * math.log(value) for value in p if value > 0), -row))
        ranked.sort(reverse=True)  # equal entropies: the earlier image first
        n = len(ranked)
        chosen = {
            "entropy": ranked[:9],
            "stratified": [ranked[(2 * part + 1) * n // 18] for part in range(9)],
        }
        expected += [-row for _, row in chosen.get(select, ranked[-9:])]
    whole = torch.cat([batch.x for batch in plain.feed.split("train")])
    got = torch.cat([batch.x for batch in restricted.feed.split("train")])
    assert torch.equal(got, whole[sorted(expected)])


def test_a_baseline_without_a_teacher_trains_on_the_very_same_images(teacher):
    taught, alone = (
        job(teacher, method, per_class=9, select="entropy") for method in ("kd", "none")
    )
    assert taught.feed.info.positions_sha256 == alone.feed.info.positions_sha256
    assert alone.method.teacher_nets == ()
    assert taught.feed.info.positions_sha256 != job(teacher, per_class=9).feed.info.positions_sha256


def test_in_a_sweep_the_baseline_is_ranked_by_the_students_teacher(teacher, tmp_path):
    (tmp_path / "base.toml").write_text(
        '[data]\nper_class = 9\nselect = "entropy"\n[student]\nname = '
        f'"mlp"\n[teacher]\ncheckpoint = "{teacher}"\n'
        "[train]\nepochs = 1\n[report]\nhtml = false\n"
    )
    (tmp_path / "sweep.toml").write_text(
        'base = "base.toml"\n[axes]\n"method.name" = ["none", "kd"]\n'
    )
    result = run_sweep(tmp_path / "sweep.toml", out=tmp_path / "runs")
    digests = {
        read_json(Path(cell.run) / "environment.json")["data"]["positions_sha256"]
        for cell in result.cells
    }
    assert result.complete
    assert len(digests) == 1


def test_a_teachers_recipe_ranks_too_and_is_trained_once(tmp_path):
    (tmp_path / "teacher.toml").write_text(
        '[model]\nname = "mlp"\n[train]\nepochs = 1\n[report]\nhtml = false\n'
    )
    commands = []
    overrides = {**QUICK, **FEW, "teacher.recipe": str(tmp_path / "teacher.toml")}
    listen = [lambda event: commands.append(event.command) if isinstance(event, Prepared) else None]
    distill(out=tmp_path / "runs", method="kd", overrides=overrides, listeners=listen)
    assert commands == ["train-teacher", "distill"]


def test_the_held_out_part_is_that_of_an_unrestricted_run(teacher):
    plain, restricted = (
        job(teacher),
        job(teacher, exclude_classes=[3], per_class=5, select="stratified"),
    )
    for ours, theirs in zip(plain.feed.split("val"), restricted.feed.split("val"), strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.y, theirs.y)
    assert (torch.cat([batch.y for batch in restricted.feed.split("val")]) == 3).any()


# ---- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(teacher, tmp_path_factory):
    """A missing class under two methods and without a teacher, and a teacher that misses it
    itself.
    """
    out = tmp_path_factory.mktemp("restricted")
    data = {**QUICK, **FEW, "data.exclude_classes": ["3"]}
    found = {
        name: distill(out=out, name=name, method=name, teacher=teacher, overrides=data)
        for name in ("kd", "skd")
    }
    found["none"] = distill(
        out=out, name="none", method="none", overrides={**data, "report.reference": teacher}
    )
    lone = {key: value for key, value in data.items() if not key.startswith("student")} | {
        "data.select": "random"
    }
    found["teacher"] = train_teacher(out=out, name="teacher", model="mlp", overrides=lone)
    return out, found


@pytest.mark.parametrize("name", ["kd", "skd", "none", "teacher"])
def test_the_result_says_how_the_missing_class_fared(runs, teacher, name):
    out, found = runs
    result = found[name]
    (missing,) = result.excluded.classes
    assert (missing.name, missing.number) == ("3", 3)
    alone = evaluate([out / name], per_class=True).evaluations[0]
    assert (
        missing.accuracy
        == alone.per_class["3"]
        == result.per_class["3"]
        == result.excluded.accuracy
    )
    assert dict(result.per_class) == dict(alone.per_class)
    assert missing.accuracy_interval == wilson(round(missing.accuracy * missing.n), missing.n)
    assert (
        missing.n
        == result.excluded.n
        == sum(read_json(out / name / "analysis.json")["confusion"][3])
    )
    known = evaluate([teacher], per_class=True).evaluations[0].per_class["3"]
    assert missing.teacher_accuracy == (None if name == "teacher" else known)


def test_a_full_run_has_no_missing_class(trained):
    assert trained.kd.excluded is None
    assert len(trained.kd.per_class) == 10


def test_environment_json_says_what_was_kept(runs):
    out, _ = runs
    data = {
        name: read_json(out / name / "environment.json")["data"]
        for name in ("kd", "none", "teacher")
    }
    assert data["kd"]["train_by_class"] == [9, 9, 9, 0, 9, 9, 9, 9, 9, 9]
    assert data["kd"]["train"] == 81
    assert data["kd"] == data["none"]
    assert data["kd"]["positions_sha256"] != data["teacher"]["positions_sha256"]


def test_the_first_lines_say_what_is_left_out(teacher, tmp_path):
    heard = []
    overrides = {**QUICK, **FEW, "data.exclude_classes": [3, 4]}
    distill(
        out=tmp_path, method="kd", teacher=teacher, overrides=overrides, listeners=[heard.append]
    )
    notes = " | ".join(heard[0].notes).replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "no training image of classes 3 and 4; the held-out part and the test set keep them"
        in notes
    )
    assert "9 images a class, those with the highest entropy of mlp's soft labels at τ = 9" in notes


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_a_student_is_measured_on_whole_splits_without_its_teacher_at_hand(
    runs, teacher, split, tmp_path
):
    """The training split too: everything that is not held out, the missing class with it."""
    out, _ = runs
    alone = shutil.copy(out / "kd" / "model.safetensors", tmp_path / "student.safetensors")
    ours, theirs = evaluate([alone, teacher], split=split, per_class=True).evaluations
    assert ours.measures.n == theirs.measures.n
    assert "3" in ours.per_class
    assert analyze_gap(teacher, [alone], split=split).pairs


def test_teachers_and_students_on_other_parts_of_the_data_fit_each_other(runs, tmp_path):
    out, _ = runs
    result = distill(
        out=tmp_path,
        method="kd",
        teacher=str(out / "teacher"),
        overrides={k: v for k, v in QUICK.items() if k != "data.name"},
    )
    assert result.excluded is None
    header = read_header(tmp_path / result.name)[1]
    # a teacher's restrictions are its own
    assert (header.data["exclude_classes"], header.data.get("per_class")) == (
        [],
        None,
    )
    assert read_header(out / "teacher")[1].data["exclude_classes"] == ["3"]


def stop_after(epoch: int):
    def listen(event):
        if isinstance(event, EpochDone) and event.at.epoch == epoch:
            raise Interrupted("stop")

    return listen


@pytest.mark.parametrize("method", ["kd", "none"])
def test_a_resumed_run_goes_on_with_the_same_images(teacher, tmp_path, method):
    overrides = {
        **QUICK,
        **FEW,
        "data.exclude_classes": [3],
        "train.epochs": 3,
        "train.state_seconds": 1e-6,
        "train.batch_size": 16,
    }
    overrides |= (
        {"teacher.checkpoint": teacher} if method == "kd" else {"report.reference": teacher}
    )
    straight = distill(out=tmp_path, name="straight", method=method, overrides=overrides)
    with pytest.raises(Interrupted):
        distill(
            out=tmp_path,
            name="stopped",
            method=method,
            overrides=overrides,
            listeners=[stop_after(2)],
        )
    assert any((tmp_path / "stopped" / "state").glob("state-*"))
    resumed = resume(tmp_path / "stopped")
    assert sha256_file(tmp_path / "stopped" / "model.safetensors") == sha256_file(
        tmp_path / "straight" / "model.safetensors"
    )
    assert resumed.excluded == straight.excluded


def test_a_run_whose_teacher_was_replaced_does_not_go_on(teacher, trained, tmp_path):
    shutil.copy(f"{teacher}/model.safetensors", tmp_path / "t.safetensors")
    overrides = {
        **QUICK,
        **FEW,
        "train.epochs": 3,
        "train.state_seconds": 1e-6,
        "report.reference": str(tmp_path / "t.safetensors"),
    }
    with pytest.raises(Interrupted):
        distill(
            out=tmp_path,
            name="stopped",
            method="none",
            overrides=overrides,
            listeners=[stop_after(1)],
        )
    shutil.copy(trained.out / "kd" / "model.safetensors", tmp_path / "t.safetensors")
    with pytest.raises(UsageError, match="a file that it names, is not what it was"):
        resume(tmp_path / "stopped")


# ---- refused before training ---------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "network"), [("distill", "student"), ("train-teacher", "model")])
def test_a_ranking_without_anybody_to_rank_is_refused_before_training(tmp_path, kind, network):
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'[data]\nper_class = 9\nselect = "stratified"\n[{network}]\nname = '
        '"mlp"\n[method]\nname = "none"\n'
    )
    with pytest.raises(RecipeInvalid) as caught:
        resolve(kind, file=path, environ={})
    (problem,) = caught.value.diagnostics
    assert (problem.key, problem.where.line) == ("data.select", 3)
    assert "there is no teacher" in problem.problem
    assert "report.reference = RUN" in problem.hint


@pytest.mark.parametrize(
    ("data", "key", "problem"),
    [
        (
            {"per_class": 5, "train_limit": 50},
            "data.per_class",
            "per_class and train_limit both say",
        ),
        ({"select": "entropy"}, "data.select", "per_class is not set"),
        ({"per_class": 5, "select": "entropi"}, "data.select", 'got "entropi"'),
        ({"per_class": 0}, "data.per_class", "must be at least 1"),
        (
            {"exclude_classes": [-1]},
            "data.exclude_classes.0",
            "name in quotes, or its number from 0, got -1",
        ),
        ({"exclude_classes": [True]}, "data.exclude_classes.0", "got true"),
        (
            {"per_class": 5, "select_temperature": 0},
            "data.select_temperature",
            "must be greater than 0",
        ),
    ],
)
def test_options_that_make_no_sense_are_told_with_their_key(teacher, data, key, problem):
    with pytest.raises(RecipeInvalid) as caught:
        job(teacher, **data)
    (found,) = caught.value.diagnostics
    assert found.key == key
    assert problem in found.problem


def test_what_only_the_data_can_tell_is_refused_before_anything_is_written(teacher, tmp_path):
    for data, message in [
        ({"data.exclude_classes": ["eleven"]}, "no class is called 'eleven'"),
        ({"data.exclude_classes": [10]}, "there is no class 10"),
        ({"data.per_class": 1000}, "data.per_class is 1000, but class '8' has only 125 images"),
    ]:
        with pytest.raises(UsageError, match=message):
            distill(
                out=tmp_path / "runs", method="kd", teacher=teacher, overrides={**QUICK, **data}
            )
    assert not (tmp_path / "runs").exists()


def test_restrictions_do_not_change_what_a_dataset_is():
    section = branch(DataSection, "digits").model_validate(
        {"name": "digits", "exclude_classes": [3], "per_class": 5}
    )
    assert (
        open_source(section).fingerprint
        == open_source(branch(DataSection, "digits")(name="digits")).fingerprint
    )
