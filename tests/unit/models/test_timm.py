"""timm's networks inside kd: the same function as timm's own, with its features as taps."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdcli.core import random
from kdcli.engine.teachers.inference import fold
from kdcli.errors import BadCheckpoint, Incompatible, NotFound, UsageError
from kdcli.jobs.build.networks import build_network
from kdcli.jobs.use.library_folder import read_library_folder, write_library_folder
from kdcli.models._headed import two_heads
from kdcli.models.timm import categories, is_here, sight
from kdcli.results.preprocessing import Preprocessing
from tests.unit.models.tiny_timm import FAMILIES, SHAPE

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'kdcli[timm]'")

VIT = "timm/vit_tiny_patch16_224"
FIXED = ("vit", "deit", "swin")  # built for one size of pictures


def own(name: str, classes: int = 7) -> nn.Module:
    size = {"img_size": SHAPE[1:]} if name.removeprefix("timm/").startswith(FIXED) else {}
    return timm.create_model(
        name.removeprefix("timm/"), num_classes=classes, **size, **FAMILIES[name]
    ).eval()


def build(name: str, classes: int = 7, **options):
    return build_network(
        name,
        num_classes=classes,
        input_shape=SHAPE,
        options={"arguments": FAMILIES[name], **options},
    )


def pictures(count: int = 2) -> torch.Tensor:
    return random.uniform(3, torch.arange(count * 3 * 32 * 32)).view(count, *SHAPE) * 2 - 1


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_timms_own_function_with_its_features_as_taps(name, tmp_path):
    net = own(name)
    file = tmp_path / "own.safetensors"
    save_file(net.state_dict(), file)
    network = build(name, weights=str(file)).eval()
    assert network.new_head == ""
    assert network.linear_heads() == (network.head,)  # a fitted temperature goes there
    x = pictures()
    with torch.no_grad():
        logits, taps = network(x, tuple(network.taps))
        torch.testing.assert_close(logits, net(x))
        torch.testing.assert_close(network(x).logits, logits)
        torch.testing.assert_close(network.head(taps["pooled"]), logits)
        features = net.forward_intermediates(x, intermediates_only=True, output_fmt="NCHW")
    stages = [tap for tap in network.taps if tap.startswith("stage") and "." not in tap]
    assert len(stages) == 4
    torch.testing.assert_close(taps["stage4"], features[-1])
    for tap in stages:
        assert any(
            each.shape == taps[tap].shape and each.allclose(taps[tap], atol=1e-5)
            for each in features
        )
        stride = network.taps[tap].stride
        assert taps[tap].shape == (
            2,
            network.taps[tap].channels,
            -(-32 // stride),
            -(-32 // stride),
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_the_trunk_of_a_stage_holds_all_that_the_stage_depends_on(name):
    network = build(name).eval()
    parameters = dict(network.named_parameters())
    (value,) = network(pictures(), ("stage2",)).taps.values()
    gradients = torch.autograd.grad(value.sum(), list(parameters.values()), allow_unused=True)
    trunk = {id(each) for module in network.trunk("stage2") for each in module.parameters()}
    reached = {
        key for key, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    }
    assert reached
    assert reached <= {key for key, each in parameters.items() if id(each) in trunk}
    assert not any("head" in key or "classifier" in key for key in reached)
    assert len(trunk) < len(parameters)


SWIN, RESNET = "timm/swin_tiny_patch4_window7_224", "timm/test_resnet"


@pytest.mark.parametrize("name", [VIT, SWIN, RESNET])
def test_taps_survive_copies_and_teachers(name):
    network = build(name).eval()
    x, taps = pictures(), ("stage2", "pooled")
    expected = network(x, taps)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(twin(x, taps).taps["stage2"], expected.taps["stage2"])
    torch.testing.assert_close(network(x, taps), expected)
    torch.testing.assert_close(
        fold(network).network(x, taps).taps["stage2"], expected.taps["stage2"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "name", [RESNET, *(pytest.param(name, marks=pytest.mark.slow) for name in (VIT, SWIN))]
)
def test_taps_survive_compilers(name):
    network = build(name).eval()
    x, taps = pictures(), ("stage2", "pooled")
    expected = network(x, taps)
    compiled = torch.compile(network.forward, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, taps), expected)
    torch.testing.assert_close(compiled(x).logits, expected.logits)


def test_what_an_activation_in_place_overwrites_is_kept_as_it_was():
    small = {"arguments": {"mlp_ratio": 0.002}}
    network = build_network("timm/vgg11", num_classes=3, input_shape=SHAPE, options=small)
    assert network(pictures(), ("stage4",)).taps["stage4"].min() >= 0


@pytest.mark.parametrize(
    ("name", "arguments", "norm"),
    [
        (RESNET, FAMILIES.get(RESNET, {}), "layer2.0.bn2"),
        ("timm/vgg11_bn", {"mlp_ratio": 0.002}, "features.12"),
    ],
)
def test_a_stage_that_ends_in_an_activation_has_the_values_before_it(name, arguments, norm):
    network = build_network(
        name, num_classes=3, input_shape=SHAPE, options={"arguments": arguments}
    ).train()
    for parameter in network.parameters():  # so that no branch begins as 0
        nn.init.normal_(parameter, std=0.3) if parameter.ndim == 1 else None
    pre, stage = network(pictures(), ("stage2.pre", "stage2")).taps.values()
    assert pre.min() < 0
    torch.testing.assert_close(pre.relu(), stage)
    assert network.taps["stage2.pre"] == network.taps["stage2"]
    assert network.norm_at("stage2.pre") is network.net.get_submodule(norm)
    twin = copy.deepcopy(network)
    assert twin(pictures(), ("stage2.pre",)).taps["stage2.pre"].shape == pre.shape


def test_a_stage_that_ends_in_none_is_its_own_and_one_of_tokens_has_none():
    inverted = build("timm/mobilenetv3_small_050").eval()
    pre, stage = inverted(pictures(), ("stage2.pre", "stage2")).taps.values()
    assert torch.equal(pre, stage)
    assert inverted.norm_at("stage2.pre") is None
    assert not any(tap.endswith(".pre") for tap in build(VIT).taps)
    pooled = build_network(
        "timm/vgg11", num_classes=3, input_shape=SHAPE, options={"arguments": {"mlp_ratio": 0.002}}
    )  # its last stage is what a pool makes of an activation
    assert "stage4.pre" in pooled.taps
    assert "stage5.pre" not in pooled.taps


def test_weights_of_other_classes_get_a_new_head(tmp_path):
    net = own(VIT, classes=11)
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    network = build(VIT, weights=str(tmp_path / "own.safetensors"))
    assert network.new_head == "11 classes"
    assert network.head.out_features == 7
    torch.testing.assert_close(network.net.blocks[0].mlp.fc1.weight, net.blocks[0].mlp.fc1.weight)


def test_weights_that_do_not_fit_are_named(tmp_path):
    tensors = own(VIT).state_dict()
    tensors["extra"] = torch.zeros(1)
    tensors["norm.bias"] = torch.zeros(3)
    del tensors["cls_token"]
    file = tmp_path / "own.safetensors"
    save_file(tensors, file)
    with pytest.raises(Incompatible) as caught:
        build(VIT, weights=str(file))
    for part in ("1 are missing (cls_token)", "1 are left over (extra)", "(norm.bias)", VIT):
        assert part in caught.value.message
    file.write_bytes(b"not this")
    with pytest.raises(BadCheckpoint):
        build(VIT, weights=str(file))
    with pytest.raises(NotFound, match="no such file"):
        build(VIT, weights="nowhere.safetensors")


def test_a_transformer_is_built_for_the_pictures_of_the_data_and_any_channels():
    network = build_network(
        VIT,
        num_classes=3,
        input_shape=(1, 8, 8),
        options={"arguments": {"depth": 2, "embed_dim": 12, "patch_size": 2}},
    )
    assert {tap: (at.channels, at.stride) for tap, at in network.taps.items()} == {
        "stage1": (12, 2),
        "stage2": (12, 2),
        "block1": (12, 2),
        "block2": (12, 2),
        "pooled": (12, None),
    }


def test_wrong_names_arguments_and_pictures_are_refused():
    with pytest.raises(NotFound) as caught:
        build_network("timm/resnet81", num_classes=3, input_shape=SHAPE)
    assert "did you mean timm/resnet" in caught.value.hint
    with pytest.raises(UsageError, match="depht"):
        build_network(VIT, num_classes=3, input_shape=SHAPE, options={"arguments": {"depht": 2}})
    with pytest.raises(UsageError, match="'img_size', which follows from the data"):
        build_network(VIT, num_classes=3, input_shape=SHAPE, options={"arguments": {"img_size": 2}})
    with pytest.raises(Incompatible, match="8x8"):
        build_network("timm/inception_v3", num_classes=3, input_shape=(3, 8, 8))
    with pytest.raises(Incompatible, match="one linear layer"):
        build_network("timm/dla46_c", num_classes=3, input_shape=(3, 64, 64))


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UsageError, match="timm") as caught:
        build_network(VIT, num_classes=3, input_shape=SHAPE)
    assert caught.value.hint == "pip install 'kdcli[timm]'"


def test_a_teacher_by_name_says_what_its_file_predicts(tmp_path):
    file = tmp_path / "own.safetensors"
    save_file({"head.weight": torch.zeros(1000, 3)}, file)
    found = categories(VIT, str(file))
    assert len(found) == 1000
    assert found[0].startswith("tench")
    save_file({"head.weight": torch.zeros(3, 3)}, file)
    assert categories(VIT, str(file)) == ("0", "1", "2")


TWO_HEADS = {
    "timm/deit_tiny_distilled_patch16_224": {
        "depth": 4,
        "embed_dim": 12,
        "num_heads": 3,
        "patch_size": 8,
    },
    "timm/repvit_m0_9": {"embed_dim": [8, 8, 12, 16], "depth": [1, 1, 1, 1]},  # norms before them
}


@pytest.mark.parametrize("name", TWO_HEADS)
def test_two_heads_answer_their_mean_and_go_back_to_timm(name, tmp_path):
    size = {"img_size": SHAPE[1:]} if "deit" in name else {}
    net = timm.create_model(
        name.removeprefix("timm/"), num_classes=7, **size, **TWO_HEADS[name]
    ).eval()
    file = tmp_path / "own.safetensors"
    save_file(net.state_dict(), file)
    options = {"arguments": TWO_HEADS[name], "weights": str(file)}
    network = build_network(name, num_classes=7, input_shape=SHAPE, options=options).eval()
    assert "mean of their logits" in two_heads(network)[0]
    x = pictures()
    with torch.no_grad():
        torch.testing.assert_close(network(x).logits, net(x))
        output = network(x, ("pooled",))
        torch.testing.assert_close(network.head(output.taps["pooled"]), output.logits)
    # one function in training too, with a gradient to both
    network.train()(x).logits.square().sum().backward()
    assert all(part.abs().sum() > 0 for part in network.head.weight.grad.chunk(2, 1))
    folder = tmp_path / "out"
    how = Preprocessing(SHAPE, 36, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    write_library_folder(folder, network.eval(), tuple("abcdefg"), how)
    with torch.no_grad():
        torch.testing.assert_close(read_library_folder(folder)(x), network(x).logits)


def test_published_weights_are_found_in_timms_cache_and_else_told(tmp_path, monkeypatch):
    name = "timm/test_resnet"
    kept = tmp_path / "model.safetensors"
    net = timm.create_model("test_resnet").eval()
    save_file(net.state_dict(), kept)
    there: dict[str, str] = {}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repository, _: there.get(repository)
    )
    with pytest.raises(NotFound, match=r"timm/test_resnet.r160_in1k\) are not in timm's") as told:
        build(name, classes=1000, weights="DEFAULT")
    assert told.value.hint == "--download fetches them"
    assert not is_here(name, "DEFAULT")
    there["timm/test_resnet.r160_in1k"] = str(kept)
    x = pictures()
    for weights in ("DEFAULT", "r160_in1k"):
        assert is_here(name, weights)
        network = build(name, classes=1000, weights=weights).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(x).logits, net(x))
        assert len(categories(name, weights)) == 1000
        assert sight(name, weights).size == (160, 160)
    with pytest.raises(NotFound, match="has no weights 'other'") as told:
        build(name, weights="other")
    assert "r160_in1k" in told.value.hint
