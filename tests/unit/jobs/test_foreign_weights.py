"""Weights that other programs trained: found in their files, named, loaded, or refused whole."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdcli.errors import (
    BadCheckpoint,
    BadData,
    Incompatible,
    NotFound,
    RecipeInvalid,
    RunExists,
    UsageError,
)
from kdcli.jobs import build_network, import_weights
from kdcli.jobs.build.networks import load_network
from kdcli.results.weights_header import read_header
from tests.unit.jobs.foreign_networks import LAYOUTS, K, Vgg, lively

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def same_answers(theirs: nn.Module, checkpoint: Path, size: int = 32) -> None:
    ours, _, _ = load_network(checkpoint)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x).logits, theirs(x), rtol=1e-4, atol=1e-5)


# more blocks of a layout that another name has
DEEPER = {"resnet18", "resnet20", "resnet56", "resnet32x4", "wrn_40_2", "vgg13"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in DEEPER else name for name in LAYOUTS],
)
def test_teachers_of_repdistiller_and_mdistiller_are_found_and_answer_alike(name, tmp_path):
    torch.manual_seed(0)
    theirs = lively(LAYOUTS[name]())
    torch.save({"model": theirs.state_dict(), "epoch": 240}, tmp_path / "ckpt.pth")
    found = import_weights(tmp_path / "ckpt.pth", runs=tmp_path, **HALF)
    assert (found.network, found.guessed, found.num_classes) == (name, True, K)
    assert (found.table, found.left_out) == ("model", ())
    same_answers(theirs, found.checkpoint)


def test_large_pictures_give_a_vgg_its_fourth_pool(tmp_path):
    theirs = lively(Vgg((1, 1, 2, 2, 2)))
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    given = {"input_shape": (3, 64, 64), "runs": tmp_path, **HALF}
    same_answers(theirs, import_weights(tmp_path / "vgg.pth", **given).checkpoint, 64)


def test_a_network_of_torchvision(tmp_path):
    from torchvision.models import mobilenet_v3_small

    theirs = lively(mobilenet_v3_small(num_classes=5))
    torch.save(theirs.state_dict(), tmp_path / "m.pth")
    found = import_weights(
        tmp_path / "m.pth", model="torchvision/mobilenet_v3_small", runs=tmp_path
    )
    assert (found.num_classes, found.input_shape, found.mean[0]) == (5, (3, 224, 224), 0.485)
    same_answers(theirs, found.checkpoint, 224)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_network_of_timm(name, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed (kdcli[timm])")
    theirs = lively(timm.create_model(name, num_classes=5, pretrained=False))
    torch.save({"state_dict_ema": theirs.state_dict()}, tmp_path / "m.pth")
    given = {"input_shape": (3, 160, 160), "runs": tmp_path, **HALF}
    found = import_weights(tmp_path / "m.pth", model=f"timm/{name}", **given)
    assert found.num_classes == 5
    same_answers(theirs, found.checkpoint, 160)


def test_two_heads_of_a_file_become_one(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed (kdcli[timm])")
    theirs = lively(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5))
    torch.save({"model": theirs.state_dict()}, tmp_path / "m.pth")
    given = {"input_shape": (3, 224, 224), "runs": tmp_path, **HALF}
    model = "timm/deit_tiny_distilled_patch16_224"
    found = import_weights(tmp_path / "m.pth", model=model, **given)
    assert found.num_classes == 5
    same_answers(theirs, found.checkpoint, 224)
    broken = {k: v for k, v in theirs.state_dict().items() if k != "head_dist.weight"}
    torch.save(broken, tmp_path / "m.pth")
    with pytest.raises(Incompatible, match="does not fit"):
        import_weights(tmp_path / "m.pth", model=model, **given)


def efficientnet_pytorch_names():
    """The names of EfficientNet-PyTorch's lite0, in the order of timm's, as its model.py gives
    them: blocks of 1, 2, 2, 3, 3, 4 and 1, of which the first does not expand.
    """
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    yield from ("_conv_stem.weight", *(f"_bn0.{part}" for part in norm))
    for number in range(1 + 2 + 2 + 3 + 3 + 4 + 1):
        layers = ("_expand_conv", "_bn0") if number else ()
        for layer in (*layers, "_depthwise_conv", "_bn1", "_project_conv", "_bn2"):
            parts = norm if layer.startswith("_bn") else ("weight",)
            yield from (f"_blocks.{number}.{layer}.{part}" for part in parts)
    yield from ("_conv_head.weight", *(f"_bn1.{part}" for part in norm))
    yield from ("_fc.weight", "_fc.bias")


def test_weights_of_efficientnet_pytorch_are_timms(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed (kdcli[timm])")
    theirs = lively(timm.create_model("tf_efficientnet_lite0", num_classes=5))
    renamed = zip(efficientnet_pytorch_names(), theirs.state_dict().values(), strict=True)
    torch.save(dict(renamed), tmp_path / "lite0.pth")
    found = import_weights(
        tmp_path / "lite0.pth", model="timm/tf_efficientnet_lite0", runs=tmp_path, **HALF
    )
    same_answers(theirs, found.checkpoint, 64)


@pytest.fixture
def state():
    torch.manual_seed(0)
    return lively(LAYOUTS["resnet8"]()).state_dict()


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "at the top": lambda s: s,
    "Lightning": lambda s: {
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(7)},
        "hyper_parameters": {"lr": 0.1},
    },
    "DataParallel": lambda s: {"net": prefixed(s, "module."), "acc": 93.1, "epoch": 3},
    "compiled": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "mdistiller's student": lambda s: {
        "model": {
            **prefixed({n: t + 1 for n, t in s.items()}, "module.teacher."),
            **prefixed(s, "module.student."),
        }
    },
    "timm's average": lambda s: {
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in s.items()},
        "state_dict_ema": s,
    },
    "RepDistiller's last": lambda s: {"opt": argparse.Namespace(lr=0.05), "model": s},
    "without counters": lambda s: {n: t for n, t in s.items() if "num_batches" not in n},
    "half precision": lambda s: {
        n: t.half().float() if t.is_floating_point() else t for n, t in s.items()
    },
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_programs_put_around_weights(wrap, state, tmp_path):
    content = wrap(state)
    torch.save(content, tmp_path / "w.pt")
    found = import_weights(tmp_path / "w.pt", runs=tmp_path, **HALF)
    tensors = load_file(found.checkpoint)
    assert torch.allclose(tensors["head.weight"], state["fc.weight"], atol=1e-3)
    assert torch.allclose(tensors["body.stem.0.weight"], state["conv1.weight"], atol=1e-3)


def test_of_two_tables_the_other_can_be_asked_for(state, tmp_path):
    plain = {name: tensor * 2 for name, tensor in state.items()}
    torch.save({"state_dict": plain, "state_dict_ema": state}, tmp_path / "w.pt")
    found = import_weights(tmp_path / "w.pt", runs=tmp_path, **HALF)
    assert (found.table, found.other_tables) == ("state_dict_ema", ("state_dict",))
    found = import_weights(tmp_path / "w.pt", table="state_dict", runs=tmp_path, **HALF)
    assert torch.equal(load_file(found.checkpoint)["head.bias"], state["fc.bias"] * 2)
    with pytest.raises(NotFound, match="has no table 'ema': it has state_dict and state_dict_ema"):
        import_weights(tmp_path / "w.pt", table="ema", runs=tmp_path, **HALF)


def test_a_safetensors_file_and_a_file_as_the_result(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    target = tmp_path / "own.safetensors"
    found = import_weights(tmp_path / "w.safetensors", out=target, **HALF)
    assert (found.run, found.checkpoint) == (None, target)
    with pytest.raises(UsageError, match="is a checkpoint of kd already"):
        import_weights(target, runs=tmp_path, **HALF)
    with pytest.raises(RunExists, match="is there already"):
        import_weights(tmp_path / "w.safetensors", out=target, **HALF)


def test_the_header_says_all_that_is_known(state, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({name: number for number, name in enumerate("abcdefg")}))
    found = import_weights(tmp_path / "w.pth", classes=names, out=tmp_path / "r", **HALF)
    _, header = read_header(tmp_path / "r")
    assert header.class_names == tuple("abcdefg")
    assert (header.mean, header.std) == (HALF["mean"], HALF["std"])
    assert (header.method, header.data, header.epoch, header.metrics) == ("none", {}, None, {})
    record = json.loads((tmp_path / "r" / "import.json").read_text())
    assert record["file_sha256"] == found.file_sha256
    assert record["class_names"] == list("abcdefg")


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("a\nb\n\nc\n", "txt"),
        ('["a", "b", "c"]', "json"),
        ('{"1": "b", "0": "a", "2": "c"}', "json"),
        ('{"0": ["n01", "a"], "1": ["n02", "b"], "2": ["n03", "c"]}', "json"),
    ],
)
def test_names_of_classes(text, suffix, tmp_path):
    from kdcli.jobs.foreign_weights.class_names import read_class_names

    (tmp_path / f"c.{suffix}").write_text(text)
    assert read_class_names(tmp_path / f"c.{suffix}") == ("a", "b", "c")


def test_the_names_of_imagenet():
    from kdcli.jobs.foreign_weights.class_names import read_class_names

    names = read_class_names(Path("imagenet"))
    assert (len(names), names[0], names[-1]) == (1000, "tench", "toilet tissue")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 0, "b": 2}', "does not number its 2 classes from 0 to 1"),
        ("[1, 2]", "does not name its classes"),
        ("3", "neither a list nor an object"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_names_that_are_none(text, said, tmp_path):
    from kdcli.jobs.foreign_weights.class_names import read_class_names

    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadData, match=said):
        read_class_names(tmp_path / "c.json")


class Danger:
    """Leaves a file behind where a pickle of it is trusted."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_of_more_than_tensors_is_refused_and_runs_nothing(state, tmp_path):
    trace = tmp_path / "trace"
    torch.save({"model": state, "more": Danger(trace)}, tmp_path / "w.pth")
    with pytest.raises(BadCheckpoint, match="is a pickle of more than tensors") as caught:
        import_weights(tmp_path / "w.pth", runs=tmp_path / "runs", **HALF)
    assert "torch.save(model.state_dict(), FILE)" in caught.value.hint
    torch.save(LAYOUTS["resnet8"](), tmp_path / "whole.pth")
    with pytest.raises(BadCheckpoint, match=r"it asks for [\w.]*foreign_networks.ResNet"):
        import_weights(tmp_path / "whole.pth", runs=tmp_path / "runs", **HALF)
    assert not trace.exists()
    assert not (tmp_path / "runs").exists()


def refused(tmp_path, content, **given):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        import_weights(tmp_path / "w.pth", runs=tmp_path / "runs", **{**HALF, **given})
    assert not (tmp_path / "runs").exists()
    return caught.value.message


def test_tensors_that_do_not_fit_are_listed_by_name(state, tmp_path):
    del state["bn1.weight"]
    state |= {"fc.weight": torch.ones(7, 63), "extra.a": torch.ones(2), "extra.b": torch.ones(2)}
    said = refused(tmp_path, state, model="resnet8")
    assert "does not fit resnet8" in said
    assert "1 tensor missing: bn1.weight" in said
    assert "2 tensors left over: extra.a and extra.b" in said
    assert "1 tensor of another shape: fc.weight is [7, 63] and not [7, 64]" in said


def test_a_shallower_network_is_not_taken_for_a_deeper_one(tmp_path):
    said = refused(tmp_path, LAYOUTS["resnet20"]().state_dict(), model="resnet8")
    assert "72 tensors left over: layer1.1.conv1.weight" in said


def test_tensors_can_be_left_out(state, tmp_path):
    state["aux.weight"] = torch.ones(3, 3)
    assert "fits no network of kd's zoo: it has" in refused(tmp_path, state)
    found = import_weights(tmp_path / "w.pth", drop=["aux."], runs=tmp_path, **HALF)
    assert found.left_out == ("aux.weight",)


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        (lambda s: {**s, "conv1.weight": s["conv1.weight"] / 0}, {}, "conv1.weight holds NaN"),
        (lambda s: {"epoch": 3}, {}, "holds no weights where programs keep them: it has epoch"),
        (lambda s: [1, 2], {}, "holds no weights where programs keep them: it is a list"),
        (lambda s: s, {"model": "resnet9"}, "'resnet9' is not a model"),
        (lambda s: s, {"mean": None, "std": None}, "does not say how its pictures were normalised"),
        (lambda s: s, {"std": None}, "--mean and --std go together"),
        (lambda s: s, {"mean": (123.0, 117.0, 104.0)}, "of pixels between 0 and 1, got 123,117"),
        (lambda s: s, {"mean": (0.5,)}, "--mean has 1 numbers, .*takes pictures of 3 channels"),
        (lambda s: s, {"data": "digits"}, "is a resnet8 for pictures of 3×32×32, not of 1×8×8"),
    ],
)
def test_bad_input_leaves_nothing(change, given, said, state, tmp_path):
    assert re.search(said, refused(tmp_path, change(state), **given))


def test_keys_of_data_need_its_name(state, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(RecipeInvalid) as caught:
        import_weights(tmp_path / "w.pth", overrides={"data.path": "x.npz"}, runs=tmp_path / "r")
    (problem,) = caught.value.diagnostics
    assert (problem.key, problem.problem, problem.hint) == ("data.name", "missing", "-d NAME")


def test_files_that_are_no_weights(tmp_path):
    for name, content in {
        "a.pth": b"nothing of the kind",
        "b.safetensors": b"{}",
        "c.pt": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadCheckpoint, match=r"is damaged, or is no|not a safetensors"):
            import_weights(tmp_path / name, runs=tmp_path, **HALF)
    with pytest.raises(NotFound, match="is not there"):
        import_weights(tmp_path / "d.pth", runs=tmp_path, **HALF)


def test_what_kd_calls_its_tensors_is_known_too(tmp_path):
    network = lively(build_network("cnn-small", num_classes=10, input_shape=(1, 8, 8)))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = import_weights(tmp_path / "w.pth", data="digits", runs=tmp_path)
    assert (found.network, found.data, found.input_shape) == ("cnn-small", "digits", (1, 8, 8))
    _, header = read_header(found.checkpoint)
    assert header.data["name"] == "digits"
    assert header.data_fingerprint


def test_a_network_of_the_users_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, input_shape):\n"
        "    return nn.Sequential(nn.Conv2d(input_shape[0], 4, 3), nn.AdaptiveAvgPool2d(1),\n"
        "        nn.Flatten(), nn.Linear(4, num_classes))\n"
        "def flat(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, num_classes))\n"
    )
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, K)
    )
    torch.save({"state_dict": prefixed(theirs.state_dict(), "model.")}, tmp_path / "w.ckpt")
    found = import_weights(
        tmp_path / "w.ckpt", model=f"{tmp_path}/mine.py:net", runs=tmp_path, **HALF
    )
    assert torch.equal(load_file(found.checkpoint)["head.weight"], theirs[3].weight)
    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, K))
    torch.save(flat.state_dict(), tmp_path / "f.pt")
    given = {"model": f"{tmp_path}/mine.py:flat", "runs": tmp_path, "mean": (0,), "std": (1,)}
    with pytest.raises(UsageError, match="fails on pictures of 1x32x32") as caught:
        import_weights(tmp_path / "f.pt", **given)
    assert "--input CxHxW" in caught.value.hint
    assert import_weights(tmp_path / "f.pt", input_shape=(1, 8, 8), **given).num_classes == K
