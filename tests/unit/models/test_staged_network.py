"""What the families that kd wrote itself get right beyond the catalogue's promises."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from kdcli import catalog
from kdcli.core import random
from kdcli.core.network import Network
from kdcli.errors import Incompatible
from kdcli.models.mlp import CosineHead
from kdcli.models.paper001 import SamePool


def build(name: str, shape: tuple[int, int, int] = (3, 16, 16), **options) -> Network:
    found = catalog.entry("model", name)
    with random.seeded(0, "init"):
        return catalog.load(found).build(
            name,
            num_classes=10,
            input_shape=shape,
            arguments={**found.facts["arguments"], **options},
        )


def test_a_residual_stage_is_the_textbooks():
    network = build("resnet8").eval()
    x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
    taps = network(x, ("stage1", "stage2.pre")).taps
    block = network.trunk("stage2")[-1][0]
    inner = block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(taps["stage1"])))))
    torch.testing.assert_close(taps["stage2.pre"], inner + block.shortcut(taps["stage1"]))
    assert network.norm_at("stage2.pre") is block.bn2
    assert network.norm_at("stage2") is None


def test_initial_weights_are_he_normal_over_the_fan_out():
    convs = [module for module in build("resnet32x4").modules() if isinstance(module, nn.Conv2d)]
    for conv in (conv for conv in convs if conv.weight.numel() > 50_000):
        assert conv.weight.std().item() == pytest.approx(
            (2 / (conv.out_channels * 9)) ** 0.5, rel=0.02
        )


def test_a_tap_that_is_not_asked_for_costs_no_memory():
    network = build("resnet8")
    x = torch.zeros(2, 3, 16, 16)

    def saved(taps: tuple[str, ...]) -> set[int]:
        kept = set()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.add(tensor.data_ptr()) or tensor, lambda tensor: tensor
        ):
            output = network(x, taps)
        pointers = kept | {tensor.data_ptr() for tensor in output.taps.values()}
        del output
        return pointers

    assert len(saved(("stage1.pre", "stage2.pre", "stage3.pre"))) == len(saved(())) + 3


def test_same_pool_is_the_keras_one():
    x = torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 0.0], [-7.0, -8.0, -9.0]]).view(1, 1, 3, 3)
    expected = torch.tensor([[5.0, 5.0, 2.0], [4.0, 4.0, 0.0], [-7.0, -8.0, -9.0]]).view(1, 1, 3, 3)
    assert torch.equal(SamePool()(x), expected)


def test_the_keras_student_has_no_last_activation():
    taps = build("mnist-student", (1, 28, 28))(
        torch.ones(1, 1, 28, 28), ("stage1", "stage2", "stage2.pre", "pooled")
    ).taps
    assert torch.equal(taps["stage2"], taps["stage2.pre"])
    assert torch.equal(taps["pooled"], taps["stage2"].flatten(1))


@pytest.mark.parametrize(
    ("name", "rates"),
    [("mnist-large", {0.25, 0.5}), ("mnist-small", set()), ("cifar10-student", set())],
)
def test_only_the_large_nets_drop_out(name, rates):
    with torch.device("meta"):
        network = build(name, (3, 32, 32))
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == rates


def test_dropout_is_an_option():
    with torch.device("meta"):
        network = build("mnist-large", (1, 28, 28), conv_dropout=0.1, dense_dropout=0.0)
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.1}


@pytest.mark.parametrize(
    ("name", "too_small", "least"),
    [
        ("resnet20", 2, 3),
        ("mnist-large", 4, 5),
        ("fashion-mnist-large", 8, 9),
        ("cnn-small", 2, 3),
        ("linear", 0, 1),
    ],
)
def test_pictures_too_small_for_the_strides_are_refused(name, too_small, least):
    build(name, (1, least, least))
    if too_small:
        with pytest.raises(
            Incompatible, match=f"{name} halves its input .* {too_small}x{least}"
        ) as caught:
            build(name, (1, too_small, least))
        assert f"{least}x{least}" in caught.value.hint


def test_pictures_need_not_be_square():
    for name in ("cnn-small", "mnist-large", "resnet8", "linear", "mlp"):
        assert build(name, (1, 9, 17))(torch.zeros(2, 1, 9, 17)).logits.shape == (2, 10)


def test_a_perceptron_with_everything_matches_its_formula():
    network = build(
        "mlp",
        (1, 1, 6),
        hidden=(8, 8),
        activation="tanh",
        norm="batch",
        residual=True,
        dropout=0.5,
        normalised=True,
    ).eval()
    x = torch.linspace(-1, 1, 18).view(3, 1, 1, 6)
    first, second = (network.body[name][1] for name in ("stage1", "stage2"))
    h1 = torch.tanh(first.norm(first.linear(x.flatten(1))))
    h2 = torch.tanh(second.norm(second.linear(h1)) + h1)
    cosine = functional.cosine_similarity(h2[:, None], network.head.weight[None], dim=2)
    torch.testing.assert_close(network(x).logits, 10 * cosine)
    assert isinstance(network.head, CosineHead)
    assert network.head.scale.requires_grad


def test_hidden_widths_are_the_taps_of_a_perceptron():
    network = build("mlp", (1, 4, 4), hidden=(5, 7))
    assert {name: tap.channels for name, tap in network.taps.items()} == {
        "stage1.pre": 5,
        "stage1": 5,
        "stage2.pre": 7,
        "stage2": 7,
        "pooled": 7,
    }
    assert all(tap.stride is None for tap in network.taps.values())


@pytest.mark.parametrize("hidden", [[], [8, 0], 8])
def test_hidden_widths_that_are_none_are_refused(hidden):
    with pytest.raises(ValidationError, match="hidden"):
        catalog.options_class(catalog.entry("model", "mlp"))(hidden=hidden)


@pytest.mark.parametrize(
    "name", ["cnn-small", pytest.param("torchvision/resnet18", marks=pytest.mark.slow)]
)
def test_the_whole_forward_is_one_graph(name):
    network = build(name).eval()
    x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
    taps = ("stage1", "stage2.pre", "pooled")
    compiled = torch.compile(network, backend="eager", fullgraph=True)(x, taps)
    expected = network(x, taps)
    torch.testing.assert_close(compiled.logits, expected.logits)
    assert compiled.taps.keys() == expected.taps.keys()
