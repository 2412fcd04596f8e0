"""torchvision's networks inside kd: the same function as torchvision's own, with taps, and refusals
before anything is downloaded.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vgg import make_layers

from kdcli import catalog
from kdcli.core import random
from kdcli.core.network import Network
from kdcli.errors import Incompatible, NotFound
from kdcli.models._headed import head_path
from kdcli.models._torchvision_stages import plan_for

SHAPE = (3, 64, 64)


def build(name: str, shape: tuple[int, int, int] = SHAPE, classes: int = 10, **options) -> Network:
    found = catalog.entry("model", f"torchvision/{name}")
    with random.seeded(0, "init"):
        return catalog.load(found).build(
            f"torchvision/{name}", num_classes=classes, input_shape=shape, arguments=options
        )


def small_vgg() -> nn.Module:
    with torch.device("meta"):
        # its dense layers alone have 120 M weights
        net = models.VGG(nn.Sequential(), init_weights=False)
    net.features = make_layers([8, "M", 8, "M", 16, 16, "M", 16, "M", 16, "M"], batch_norm=True)
    net.classifier = nn.Sequential(nn.Dropout(), nn.Linear(16 * 49, 10))
    return net


# few layers where the family's constructor allows it: what matters is the way through them
FAMILIES: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "basic": (lambda: models.ResNet(BasicBlock, [2, 1, 1, 1]), [2, 4, 8, 16, 32]),
    "bottleneck": (lambda: models.ResNet(Bottleneck, [1, 2, 1, 1]), [2, 4, 8, 16, 32]),
    "vgg": (small_vgg, [1, 2, 4, 8, 16]),
    "densenet": (lambda: models.DenseNet(4, (2, 2, 2, 2), 8), [2, 4, 8, 16, 32]),
    "shufflenet": (lambda: models.ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 128]), [2, 8, 16, 32]),
    "mobilenet_v2": (lambda: models.mobilenet_v2(width_mult=0.1), [2, 4, 8, 16, 32]),
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(width_mult=0.1), [2, 4, 8, 16, 32]),
    "mobilenet_v3_large": (lambda: models.mobilenet_v3_large(width_mult=0.1), [2, 4, 8, 16, 32]),
    "efficientnet": (models.efficientnet_b0, [2, 4, 8, 16, 32]),
    "efficientnet_v2": (models.efficientnet_v2_s, [2, 4, 8, 16, 32]),
    "regnet": (models.regnet_x_400mf, [2, 4, 8, 16, 32]),
    "convnext": (
        lambda: models.ConvNeXt([CNBlockConfig(8, 8, 1)] * 3 + [CNBlockConfig(8, None, 1)]),
        [4, 4, 8, 16, 32],
    ),
}


# stages end without activation
LINEAR = {
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet",
    "efficientnet_v2",
    "convnext",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_through_the_stages_is_torchvisions_own(family):
    make, strides = FAMILIES[family]
    with random.seeded(0, "init"):
        net = make().eval()
    net.set_submodule(head_path(net), nn.Identity())
    plan = plan_for(net)
    x = random.uniform(3, torch.arange(3 * 64 * 64)).view(1, *SHAPE)
    with torch.no_grad():
        pooled, taps = plan.walk(net, x, tuple(plan.parts))
        torch.testing.assert_close(pooled, net(x))
    assert [
        64 // taps[name].shape[2] for name in plan.parts if not name.endswith(".pre")
    ] == strides
    for name in (name for name in taps if name.endswith(".pre")):
        after = taps[name.removesuffix(".pre")]
        assert taps[name].min() < 0
        assert torch.equal(after, taps[name] if family in LINEAR else taps[name].relu())


def test_vgg_has_its_blocks_as_stages():
    with torch.device("meta"):
        network = build("vgg11_bn")
    assert [
        network.taps[tap].channels for tap in ("stem", "stage1", "stage2", "stage3", "stage4")
    ] == [64, 128, 256, 512, 512]
    assert [
        network.taps[tap].stride for tap in ("stem", "stage1", "stage2", "stage3", "stage4")
    ] == [1, 2, 4, 8, 16]
    assert network.norm_at("stage4.pre") is network.net.features[26]
    assert network.norm_at("stage4") is None
    assert isinstance(network.trunk("stage1")[-1], nn.ReLU)


def test_the_norm_of_a_residual_stage_is_its_last_blocks():
    network = build("resnet18")
    assert network.norm_at("stage3.pre") is network.net.layer3[1].bn2
    with torch.device("meta"):
        network = build("resnet50")
    assert network.norm_at("stage3.pre") is network.net.layer3[5].bn3


@pytest.mark.parametrize("name", ["alexnet", "vit_b_32", "swin_t", "googlenet"])
def test_every_other_family_has_the_pooled_tap(name):
    with torch.device("meta"):
        network = build(name, (3, 96, 96))
        output = network(torch.empty(2, 3, 96, 96), ("pooled",))
    assert list(network.taps) == ["pooled"]
    assert output.taps["pooled"].shape == (2, network.head.in_features)
    assert output.logits.shape == (2, 10)


def test_odd_sizes_are_declared_as_they_come_out():
    with torch.device("meta"):
        for name, size in (("resnet18", 28), ("vgg11", 36)):
            network = build(name, (3, size, size))
            taps = network(torch.empty(2, 3, size, size), tuple(network.taps)).taps
            assert all(
                -(-size // tap.stride) == taps[key].shape[2]
                for key, tap in network.taps.items()
                if tap.stride
            )


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("resnet18", (1, 28, 28), "takes pictures with 3 channels, these have 1 channel$"),
        ("vgg11", (3, 8, 8), "cannot take pictures of 8x8"),
        ("vit_b_32", (3, 40, 40), "cannot be built for pictures of 40x40"),
        ("vit_b_32", (3, 64, 96), "cannot take pictures of 64x96"),
        ("squeezenet1_0", SHAPE, "ends in a convolution"),
    ],
)
def test_what_does_not_fit_is_refused(name, shape, words):
    with torch.device("meta"), pytest.raises(Incompatible, match=words) as caught:
        build(name, shape)
    assert f"torchvision/{name}" in caught.value.message


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(NotFound, match="no classifier 'resnet81'") as caught:
        build("resnet81")
    assert "torchvision/resnet18" in caught.value.hint


def test_weights_are_checked_before_they_are_fetched(monkeypatch):
    monkeypatch.setattr(
        urllib.request,
        "urlopen",
        lambda *_args, **_kwargs: pytest.fail("nothing may be downloaded"),
    )
    with pytest.raises(NotFound, match="no weights 'IMAGENET'") as caught:
        build("resnet18", classes=1000, weights="IMAGENET")
    assert "IMAGENET1K_V1" in caught.value.hint
    found = catalog.load(catalog.entry("model", "torchvision/resnet18"))
    names = found.categories("torchvision/resnet18", "DEFAULT")
    assert (len(names), names[0]) == (1000, "tench")


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_weights_of_other_classes_keep_the_body(made_weights, name):
    made = made_weights(name)
    network = build(name, classes=10, weights="DEFAULT")
    assert (network.head.out_features, network.new_head) == (10, "1000 classes")
    body = network.net.state_dict()
    assert all(torch.equal(tensor, made[key]) for key, tensor in body.items())
    assert network(torch.zeros(2, *SHAPE)).logits.shape == (2, 10)
    whole = build(name, classes=1000, weights="DEFAULT")
    assert (whole.head.out_features, whole.new_head) == (1000, "")


def test_weights_keep_their_head_and_say_how_they_want_pictures(monkeypatch):
    made = models.resnet18(num_classes=1000).state_dict()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda *_args, **_kwargs: made)
    network = build("resnet18", classes=1000, weights="DEFAULT")
    assert torch.equal(network.head.weight, made["fc.weight"])
    assert network.input_mean == (0.485, 0.456, 0.406)
    assert network.input_std == (0.229, 0.224, 0.225)
    assert (network.input_size, network.input_resize) == ((224, 224), 256)
    assert build("resnet18").input_mean is None


def test_weights_that_cannot_be_fetched_are_no_traceback(monkeypatch):
    def offline(*_args, **_kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(NotFound, match=r"cannot be fetched.*no network"):
        build("resnet18", classes=1000, weights="DEFAULT")


def test_siblings_by_name():
    siblings = catalog.entries("model")["torchvision/*"].facts["smaller"]
    known = {f"torchvision/{name}" for name in models.list_models(module=models)}
    assert siblings.keys() <= known
    assert set(siblings.values()) <= known
    assert catalog.entry("model", "torchvision/resnet50").facts["smaller"] == "torchvision/resnet18"
    assert catalog.entry("model", "torchvision/resnet18").facts["smaller"] is None
