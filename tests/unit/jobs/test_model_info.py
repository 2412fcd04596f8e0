"""What networks cost, what an adapter stands for, and which students a teacher has."""

from __future__ import annotations

import pytest
from torchvision import models

from kdcli import catalog
from kdcli.engine.checkpoint import save_model
from kdcli.errors import Incompatible, NotFound
from kdcli.jobs import build_network, describe_model, model_members, propose_students
from kdcli.jobs.model_info import _asked_for, _candidates
from kdcli.modules.composite import Composite
from kdcli.recipe.resolve import resolve
from kdcli.results.weights_header import CheckpointHeader


def test_options_count_too():
    assert (
        describe_model("mlp", 10, (1, 2, 2), {"hidden": [3]}).parameters == 4 * 3 + 3 + 3 * 10 + 10
    )


def test_members_of_torchvision_are_its_classifiers():
    found = model_members("torchvision/*")
    assert "torchvision/vit_b_16" in found
    assert {name.removeprefix("torchvision/") for name in found} == set(
        models.list_models(module=models)
    ) - {
        "squeezenet1_0",
        "squeezenet1_1",
    }
    with pytest.raises(Incompatible, match="squeezenet1_0 ends in a convolution"):
        describe_model("torchvision/squeezenet1_0")


@pytest.mark.slow
@pytest.mark.parametrize("name", model_members("torchvision/*"))
def test_every_member_can_be_built(name):
    if name != "torchvision/regnet_y_128gf":  # its weights fill 2.5 GB
        assert describe_model(name).macs > 0


def test_students_are_smaller_and_the_first_ones_are_worth_it():
    teacher, found = propose_students("vgg13", num_classes=100)
    assert teacher.parameters == 9_462_180
    assert all(each.parameters_ratio > 1 for each in found)
    worth = [each.worth_it for each in found]
    assert worth == sorted(worth, reverse=True)
    assert all(each.macs_ratio >= 1 for each in found if each.worth_it)
    names = [each.card.name for each in found]
    # which is smaller and yet slower
    assert names.index("vgg8") < names.index("resnet20") < names.index("resnet32x4")
    sizes = [each.card.parameters for each in found if each.worth_it]
    assert sizes == sorted(sizes, reverse=True)


def test_networks_for_pictures_of_another_size_are_proposed_by_name_only():
    digits = {each.card.name for each in propose_students("cnn-large")[1]}
    assert {"cnn-medium", "cnn-small", "resnet8"} <= digits
    assert not any(name.startswith("mnist-") or name in {"linear", "vgg8"} for name in digits)
    assert [
        each.card.name for each in propose_students("cnn-large", ["linear", "cnn-large"])[1]
    ] == ["linear"]


def test_a_teacher_of_torchvision_has_its_known_siblings():
    names = _candidates(describe_model("torchvision/resnet34", input_shape=(3, 32, 32)))
    assert {"torchvision/resnet18", "torchvision/mobilenet_v2", "resnet18"} <= set(names)
    assert not any(
        name.startswith("torchvision/") for name in _candidates(describe_model("resnet34"))
    )


def test_every_network_with_a_sibling_proposes_it():
    for name in ("resnet50", "wrn_40_2", "vgg8", "cnn-large"):
        sibling = catalog.entry("model", name).facts["smaller"]
        first = [each.card.name for each in propose_students(name, [sibling])[1] if each.worth_it]
        assert first == [sibling]


def test_a_teacher_is_a_network_or_a_checkpoint(tmp_path):
    with pytest.raises(NotFound, match="'wrn_40_3' is not a model") as caught:
        propose_students("wrn_40_3")
    assert "wrn_40_" in str(caught.value.hint)
    with pytest.raises(NotFound, match="no checkpoint at runs/wrn"):
        propose_students("runs/wrn")


def test_several_networks_in_one_checkpoint_are_a_teacher(tmp_path):
    members = [
        build_network("mlp", num_classes=3, input_shape=(1, 4, 4), options={"hidden": [8]})
        for _ in range(2)
    ]
    together = Composite(members, "sum_logits")
    header = CheckpointHeader(
        together.blueprint.architecture,
        together.blueprint.arguments,
        3,
        (1, 4, 4),
        ("a", "b", "c"),
        (0.5,),
        (0.5,),
        {"name": "noise"},
        "",
        0,
    )
    save_model(tmp_path / "model.safetensors", together, header)
    teacher, found = propose_students(str(tmp_path / "model.safetensors"), ["linear"])
    assert teacher.parameters == 2 * (17 * 8 + 9 * 3)
    assert found[0].parameters_ratio == pytest.approx(teacher.parameters / 51)


def test_what_is_to_be_fetched_of_recipes_within_a_recipe(tmp_path, monkeypatch):
    """The recipes of its teachers, of several too, and of what its gap is measured to."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        text = f'[data]\nname = "digits"\n[model]\nname = "hf/some/net-{number}"\n'
        (tmp_path / f"teacher{number}.toml").write_text(text)
    (tmp_path / "both.toml").write_text(
        '[data]\nname = "digits"\n[student]\nname = "mlp"\n[method]\nname = "kd"\n'
        '[[teacher]]\nrecipe = "teacher1.toml"\n[[teacher]]\nname = "hf/some/net-3"\n'
    )
    recipe = resolve("distill", file=tmp_path / "both.toml").recipe
    assert list(_asked_for(recipe)) == [
        ("mlp", None),
        ("hf/some/net-1", None),
        ("hf/some/net-3", None),
    ]
    alone = {"method.name": "none", "student.name": "mlp", "data.name": "digits"}
    alone["report.reference"] = str(tmp_path / "teacher2.toml")
    other = resolve("distill", values=alone).recipe
    assert ("hf/some/net-2", None) in list(_asked_for(other))
