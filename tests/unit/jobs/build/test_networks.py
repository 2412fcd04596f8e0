"""Whole jobs of methods with several networks: what they leave can be measured, can teach, and is
refused by name where it cannot work.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcli.core.teacher import Teacher
from kdcli.core.types import DataInfo
from kdcli.errors import Incompatible, NotFound
from kdcli.jobs import analyze_gap, distill, evaluate, train_teacher
from kdcli.jobs.build.networks import build_network
from kdcli.jobs.build.teachers import LoadedTeacher, between
from kdcli.jobs.events import EpochDone
from kdcli.recipe.resolve import resolve
from kdcli.recipe.writing import recipe_hash
from kdcli.results.run import TeacherSummary
from kdcli.results.weights_header import read_header
from tests.unit.jobs.conftest import QUICK

SMALL = {**QUICK, "student.hidden": [12]}


@pytest.fixture(scope="module")
def ensemble(trained, tmp_path_factory):
    """Two generations of a perceptron, shipped together."""
    epochs = []
    overrides = {
        **SMALL,
        "method.generations": 2,
        "method.ensemble": True,
        "train.select": "best",
        "train.keep_best": True,
    }
    result = distill(
        teacher=str(trained.out / "teacher"), method="born_again", student="mlp", out=tmp_path_factory.mktemp("ensemble"), overrides=overrides,
        listeners=[lambda event: epochs.append(event) if isinstance(event, EpochDone) else None],
    )  # fmt: skip
    return result, epochs


def test_a_checkpoint_of_several_networks_says_how_to_build_them(trained, ensemble):
    result, _ = ensemble
    header = read_header(Path(ensemble[0].run))[1]
    member = {"architecture": "mlp", "arguments": read_header(trained.out / "kd")[1].arguments}
    assert (header.architecture, header.arguments) == (
        "composite",
        {"combine": "mean_probabilities", "members": [member, member]},
    )
    assert (result.network, result.parameters) == ("composite", 2 * trained.kd.parameters)
    assert header.parameters == result.parameters


def test_it_is_measured_again_from_its_checkpoint_alone(trained, ensemble):
    result, _ = ensemble
    found = evaluate([Path(ensemble[0].run)]).evaluations[0].measures
    assert (found.accuracy, found.nll, found.entropy) == (
        result.test.accuracy,
        result.test.nll,
        result.test.entropy,
    )
    report = analyze_gap(trained.out / "teacher", [Path(ensemble[0].run)], bootstrap=10)
    assert report.students[0].network == "composite"


def test_each_stage_shows_its_own_network_and_the_best_is_chosen_among_whole_ones(ensemble):
    result, epochs = ensemble
    assert [(event.at.stage, event.best) for event in epochs if event.at.epoch == 1] == [
        ("generation1", False),
        ("generation2", True),
    ]
    assert all(event.val is not None for event in epochs)
    assert result.val.accuracy == max(
        event.val.accuracy for event in epochs if event.at.stage == "generation2"
    )


def test_it_teaches(trained, ensemble, tmp_path):
    result = distill(
        teacher=ensemble[0].run, method="kd", student="mlp", out=tmp_path, overrides=SMALL
    )
    assert (result.teachers[0].architecture, result.teachers[0].test.accuracy) == (
        "composite",
        pytest.approx(ensemble[0].test.accuracy),
    )


def test_self_learning_teachers_of_its_kind_are_built_fresh(trained, ensemble, tmp_path):
    overrides = {**SMALL, "train.epochs": 1, "method.self_teachers": 1}
    assert (
        distill(
            teacher=ensemble[0].run, method="slkd", student="mlp", out=tmp_path, overrides=overrides
        )
        is not None
    )


def test_it_is_no_start_for_one_network(trained, ensemble, tmp_path):
    with pytest.raises(Incompatible, match="does not fit composite"):
        train_teacher(model="mlp", out=tmp_path, overrides={**QUICK, "model.init": ensemble[0].run})


def test_student_and_assistant_are_shipped_as_their_sum(trained, tmp_path):
    overrides = {**SMALL, "train.epochs": 1, "method.assistant": "mlp"}
    result = distill(
        teacher=str(trained.out / "teacher"),
        method="residual_kd",
        student="mlp",
        out=tmp_path,
        name="r",
        overrides=overrides,
    )
    members = read_header(tmp_path / "r")[1].arguments["members"]
    assert [member["arguments"]["hidden"] for member in members] == [[12], [128]]
    assert evaluate([tmp_path / "r"]).evaluations[0].measures == result.test


def test_a_body_with_its_teachers_last_layer_is_one_network(trained, tmp_path):
    overrides = {**SMALL, "train.epochs": 1}
    teacher, header = trained.out / "teacher", read_header(trained.out / "kd")[1]
    result = distill(
        teacher=str(teacher), method="simkd", student="mlp", out=tmp_path, name="s",
        overrides=overrides,
    )  # fmt: skip
    found = read_header(tmp_path / "s")[1]
    assert (result.network, found.architecture) == ("reused_head", "reused_head")
    body = {"architecture": "mlp", "arguments": header.arguments}
    assert (found.arguments["body"], found.arguments["features"]) == (body, 128)
    assert evaluate([tmp_path / "s"]).evaluations[0].measures == result.test
    weights = load_file(tmp_path / "s" / "model.safetensors")
    assert torch.equal(
        weights["head.weight"], load_file(teacher / "model.safetensors")["head.weight"]
    )
    again = distill(
        teacher=str(tmp_path / "s"), method="kd", student="mlp", out=tmp_path, overrides=overrides
    )
    assert again.teachers[0].test.accuracy == pytest.approx(result.test.accuracy)


def test_peers_learn_without_a_teacher(tmp_path):
    result = train_teacher(
        model="mlp",
        out=tmp_path,
        name="dml",
        overrides={**QUICK, "train.epochs": 1, "method.name": "dml"},
    )
    assert (result.network, result.teachers) == ("mlp", ())
    assert not any(
        key.startswith("peers") for key in load_file(tmp_path / "dml" / "model.safetensors")
    )


def test_a_network_like_the_teacher_needs_a_teacher(tmp_path):
    overrides = {**QUICK, "method.name": "dml", "method.peers": ["teacher"]}
    with pytest.raises(NotFound, match="'teacher' is not a model"):
        train_teacher(model="mlp", out=tmp_path, overrides=overrides)


# ---- what lies between ---------------------------------------------------------------------------


def loaded(name, classes=10, shape=(3, 32, 32), **options):
    network = build_network(name, num_classes=classes, input_shape=shape, options=options or None)
    return LoadedTeacher(Teacher(network), TeacherSummary("", "", name, 0, None), name, {})


def info(classes=10, shape=(3, 32, 32)):
    return DataInfo(
        "d",
        classes,
        1,
        shape,
        ("c",) * classes,
        (0.0,),
        (1.0,),
        "f",
        torch.zeros(1, dtype=torch.int64),
    )


def test_networks_of_the_family_between_two_sizes_largest_first():
    before = torch.get_rng_state()
    found = between(loaded("resnet32"), loaded("resnet8").teacher.network, info())
    assert found == {"resnet20": 272_474, "resnet14": 175_258}
    assert list(found) == ["resnet20", "resnet14"]
    assert torch.equal(torch.get_rng_state(), before)


def test_they_are_counted_with_the_classes_of_the_data():
    found = between(
        loaded("resnet20", classes=100),
        loaded("resnet8", classes=100).teacher.network,
        info(classes=100),
    )
    assert found == {"resnet14": 181_108}


def test_one_that_cannot_take_the_images_is_no_candidate():
    shape = (1, 8, 8)
    found = between(
        loaded("cnn-large", shape=shape),
        loaded("linear", shape=shape).teacher.network,
        info(shape=shape),
    )
    assert "cnn-small" in found
    assert all(build_network(name, num_classes=10, input_shape=shape) for name in found)


def test_what_is_in_no_family_has_none():
    assert between(loaded("torchvision/resnet18"), loaded("resnet8").teacher.network, info()) == {}


def test_a_chain_without_an_assistant_is_refused_before_anything_is_written(trained, tmp_path):
    with pytest.raises(Incompatible, match="ta needs an assistant"):
        distill(
            teacher=str(trained.out / "teacher"),
            method="ta",
            student="mlp",
            out=tmp_path / "runs",
            overrides=SMALL,
        )
    assert not (tmp_path / "runs").exists()


# ---- along a teacher's training ------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    out = tmp_path_factory.mktemp("kept")
    train_teacher(
        model="mlp",
        data="digits",
        name="teacher",
        out=out,
        overrides={**QUICK, "train.epochs": 3, "train.keep_every": 1},
    )
    return out


FOLLOW = {**SMALL, "train.epochs": 3, "method.final_ce_epochs": 1, "method.loss": "kl"}


def test_the_student_follows_what_its_teachers_run_kept(kept):
    epochs = []
    result = distill(
        teacher=str(kept / "teacher"), method="pro_kd", student="mlp", out=kept, overrides=FOLLOW,
        listeners=[lambda event: epochs.append(event) if isinstance(event, EpochDone) else None],
    )  # fmt: skip
    assert [(event.at.stage, set(event.losses)) for event in epochs] == [
        ("follow", {"pro_kd"})
    ] * 3 + [("labels", {"ce"})]
    assert result.network == "mlp"


def test_a_teacher_whose_run_kept_nothing_is_refused(trained, tmp_path):
    with pytest.raises(Incompatible, match="this teacher's run kept none"):
        distill(
            teacher=str(trained.out / "teacher"),
            method="pro_kd",
            student="mlp",
            out=tmp_path,
            overrides=SMALL,
        )


def test_checkpoints_of_other_data_are_refused(kept, tmp_path):
    other = train_teacher(
        model="mlp",
        data="synthetic",
        out=tmp_path,
        overrides={
            **QUICK,
            "train.epochs": 1,
            "data.train": 200,
            "data.test": 50,
            "data.classes": 20,
        },
    )
    overrides = {**FOLLOW, "method.checkpoints": [other.run]}
    with pytest.raises(Incompatible, match="teacher predicts 20 classes, digits has 10"):
        distill(
            teacher=str(kept / "teacher"),
            method="pro_kd",
            student="mlp",
            out=tmp_path,
            overrides=overrides,
        )


def test_what_was_kept_is_part_of_the_content_of_a_recipe_that_follows_it(kept):
    def digest(method, **values):
        values = {
            "teacher.checkpoint": str(kept / "teacher"),
            "student.name": "mlp",
            "method.name": method,
            **values,
        }
        return recipe_hash(resolve("distill", values=values, environ={}).recipe)

    first, other = digest("pro_kd"), digest("kd")
    last = kept / "teacher" / "checkpoints" / "epoch-002.safetensors"
    assert (
        digest(
            "pro_kd",
            **{"method.checkpoints": [str(path) for path in sorted(last.parent.iterdir())[:2]]},
        )
        == first
    )
    moved = last.rename(kept / "epoch-002.safetensors")
    try:
        assert digest("pro_kd") != first
        assert digest("kd") == other
    finally:
        moved.rename(last)
