"""`kd models`: lists with sizes, torchvision's names, and the students of a teacher."""

from __future__ import annotations

import pytest

from kdcli import catalog
from kdcli.core.network import Network
from kdcli.engine.checkpoint import save_model
from kdcli.jobs import build_network
from kdcli.results.weights_header import MODEL_FILE, CheckpointHeader


def test_all_networks_are_listed_without_building_one(kd, monkeypatch):
    monkeypatch.setattr("kdcli.jobs.describe_model", lambda *_: pytest.fail("a network was built"))
    items = kd("models", "--json").json["data"]
    assert {item["name"] for item in items} == set(catalog.entries("model"))
    assert {key for item in items for key, value in item.items() if value is not None} == {
        "name",
        "family",
        "summary",
    }


def test_a_wildcard_shows_parameters_multiply_adds_pictures_and_taps(kd):
    out = kd("models", "resnet8*", "-d", "cifar100").out
    line = next(line for line in out.splitlines() if "resnet8x4" in line)
    for expected in ("1.23 M", "177 M", "3×32×32", "stem, stage1-3 (.pre), pooled"):
        assert expected in line
    (item,) = (
        item
        for item in kd("models", "resnet8*", "-d", "cifar100", "--json").json["data"]
        if item["name"] == "resnet8x4"
    )
    assert (item["parameters"], item["input_shape"]) == (1_233_540, [3, 32, 32])
    assert item["taps"][0] == "stem"
    assert item["taps"][-1] == "pooled"
    assert 176e6 < item["macs"] < 178e6


def test_taps_in_short(kd):
    lines = kd("models", "mnist-s*").out.splitlines()
    assert "stage1-2 (.pre), pooled" in lines[1]
    assert "stem" not in lines[1]
    assert "1×28×28" in lines[1]


def test_a_network_that_cannot_take_the_pictures_has_no_sizes(kd):
    items = {
        item["name"]: item for item in kd("models", "*e*v*", "-d", "digits", "--json").json["data"]
    }
    assert items["mobilenet_v2"]["parameters"] is None
    assert items["shufflenet_v2"]["parameters"] > 1e6


def test_torchvisions_classifiers_are_listed_by_name(kd, monkeypatch):
    monkeypatch.setattr("kdcli.jobs.describe_models", lambda *_, **__: {})  # no time for any
    answer = kd("models", "torchvision/*")
    lines = answer.out.splitlines()
    assert len(lines) > 70
    assert "sizes of more: again" in lines[-1]
    (line,) = (line for line in lines if "torchvision/resnet50 " in line)
    assert "80.9 % on ImageNet" in line
    assert not any(
        word in answer.out for word in ("squeezenet", "deeplab", "rcnn", "quantized", "r3d")
    )


def test_a_narrower_wildcard_of_torchvision_has_sizes(kd):
    items = kd("models", "torchvision/shufflenet*", "--json").json["data"]
    assert [item["name"].removeprefix("torchvision/shufflenet_v2_") for item in items] == [
        "x0_5",
        "x1_0",
        "x1_5",
        "x2_0",
    ]
    assert all(
        item["input_shape"] == [3, 224, 224] and item["macs"] and "pooled" in item["taps"]
        for item in items
    )


@pytest.mark.slow
def test_timms_networks_are_listed_with_parameters(kd):
    pytest.importorskip("timm", reason="timm is not installed: pip install 'kdcli[timm]'")
    items = {item["name"]: item for item in kd("models", "timm/resnet18*", "--json").json["data"]}
    assert items["timm/resnet18"]["parameters"] == 11_181_642  # of 10 classes
    assert items["timm/resnet18"]["taps"][:2] == ["stem", "stage1"]


def test_the_modules_that_can_be_taps_are_listed_with_their_shapes(kd, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef net(num_classes, input_shape):\n"
        "    return nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.Flatten(),"
        " nn.Linear(96, num_classes))\n",
        encoding="utf-8",
    )
    lines = kd("models", "mine.py:net", "--taps", "-d", "digits").out.splitlines()
    assert lines[0].split() == ["0", "map", "6", "channels", "4×4", "Conv2d"]
    assert 'student.taps = { stage1 = "0" }' in lines[-1]
    data = kd("models", "mine.py:net", "--taps", "-d", "digits", "--json").json["data"]
    assert data["modules"][0]["size"] == [4, 4]
    assert data["modules"][1]["size"] is None
    refused = kd("models", "resnet20", "--taps")
    assert (refused.code, "declares its taps itself" in refused.err) == (2, True)
    assert kd("models", "resnet*", "--taps").code == 2


def test_a_wildcard_that_matches_nothing_is_refused(kd):
    for pattern in ("torchvision/nothing*", "nothing*"):
        answer = kd("models", pattern)
        assert answer.code == 2
        assert f"no network matches '{pattern}'" in answer.err


# ---- students for a teacher ----------------------------------------------------------------------


def test_students_are_proposed_from_the_nearest_that_is_worth_it(kd):
    answer = kd("models", "resnet*", "--teacher", "resnet56", "-d", "cifar100", "--json")
    items = answer.json["data"]
    assert [item["name"] for item in items] == [
        "resnet32",
        "resnet20",
        "resnet14",
        "resnet8",
        "resnet44",
    ]
    assert items[1]["parameters_ratio"] == pytest.approx(861_620 / 278_324)
    assert items[1]["macs_ratio"] == pytest.approx(3.1, abs=0.05)
    out = kd("models", "resnet*", "--teacher", "resnet56", "-d", "cifar100").out
    assert "278 k (3.1×)" in out
    assert "fewer than resnet56, 862 k parameters" in out
    assert "kd distill takes resnet20 unless told" in out


def test_a_checkpoint_brings_its_own_pictures_and_classes(kd, tmp_path):
    network: Network = build_network(
        "mlp", num_classes=3, input_shape=(1, 4, 4), options={"hidden": [64, 64]}
    )
    arguments = {**catalog.entry("model", "mlp").facts["arguments"], "hidden": [64, 64]}
    header = CheckpointHeader(
        "mlp", arguments, 3, (1, 4, 4), ("a", "b", "c"), (0.5,), (0.5,), {"name": "x"}, "", 0
    )
    (tmp_path / "runs" / "t").mkdir(parents=True)
    save_model(tmp_path / "runs" / "t" / MODEL_FILE, network, header)
    answer = kd("models", "[ml]*", "--teacher", "runs/t", "--json")
    items = {item["name"]: item for item in answer.json["data"]}
    assert items["linear"]["parameters"] == 16 * 3 + 3
    assert all(item["input_shape"] == [1, 4, 4] for item in items.values())
    assert items["linear"]["parameters_ratio"] == pytest.approx((17 * 64 + 65 * 64 + 65 * 3) / 51)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("resnet65", "'resnet65' is not a model"),
        ("runs/none", "no checkpoint at runs/none"),
        ("mnist-student", "no network of the zoo is smaller than mnist-student"),
    ],
)
def test_a_teacher_that_is_not_there_or_has_no_smaller_one(kd, teacher, words):
    answer = kd("models", "mnist-*", "--teacher", teacher)
    assert answer.code == 2
    assert words in answer.err
