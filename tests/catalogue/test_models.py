"""What every network of the catalogue promises, whatever its family."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdcli import catalog
from kdcli.core import random
from kdcli.core.network import Network
from kdcli.errors import Incompatible

CLASSES = 10
OURS = tuple(name for name in catalog.names("model") if not name.endswith("/*"))
NAMES = (*OURS, "torchvision/resnet18", "torchvision/shufflenet_v2_x0_5")
# more blocks of resnet20, resnet8x4, wrn_16_1, wrn_16_2, vgg13 and resnet18, or fewer, and nothing
# else
DEEPER = {
    "resnet14",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet32x4",
    "wrn_40_1",
    "wrn_40_2",
}
DEEPER |= {"vgg11", "vgg16", "vgg19", "resnet34"}
# no activation follows: the Keras example's last convolution, linear bottlenecks
LINEAR = {
    ("mnist-small", "stage2.pre"),
    ("mnist-student", "stage2.pre"),
    *(("mobilenet_v2", f"stage{number}.pre") for number in range(1, 5)),
}
STRUCTURES = tuple(name for name in NAMES if name not in DEEPER)


@dataclass(frozen=True)
class Case:
    name: str
    network: Network
    # four pictures of the size that the network is for; where that is 32x32 or more, of 16x16 or
    # little more, for speed
    x: Tensor


def shape_for(name: str) -> tuple[int, int, int]:
    shape = tuple(catalog.entry("model", name).facts.get("input_shape", (3, 32, 32)))
    return shape if shape[1] < 32 else (3, 17, 17) if name == "mobilenet_v1" else (3, 16, 16)


def build(name: str, shape: tuple[int, int, int], seed: int = 0, classes: int = CLASSES) -> Network:
    found = catalog.entry("model", name)
    with random.seeded(seed, "init"):
        return catalog.load(found).build(
            name, num_classes=classes, input_shape=shape, arguments=found.facts["arguments"]
        )


@functools.lru_cache(maxsize=1)
def ready(name: str) -> Case:
    shape = shape_for(name)
    x = random.uniform(1, torch.arange(4 * shape[0] * shape[1] * shape[2])).view(4, *shape) * 2 - 1
    network = build(name, shape)
    with random.seeded(0, "dropout"), torch.no_grad():
        network.train()(x)  # so that running statistics are not those of a new batch norm
    return Case(name, network.eval(), x)


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in DEEPER else name for name in NAMES
    ],
    scope="module",
)
def case(request: pytest.FixtureRequest) -> Case:
    return ready(request.param)


@pytest.fixture(params=STRUCTURES, scope="module")
def structure(request: pytest.FixtureRequest) -> Case:
    return ready(request.param)


def test_it_trains(case):
    with random.seeded(0, "dropout"):
        logits = case.network.train()(case.x).logits
    assert logits.shape == (4, CLASSES)
    loss = functional.cross_entropy(logits, torch.arange(4))
    # raises where a parameter is not used
    gradients = torch.autograd.grad(loss, list(case.network.parameters()))
    case.network.eval()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_taps_are_what_is_declared(case):
    output = case.network(case.x, tuple(case.network.taps))
    assert output.taps.keys() == case.network.taps.keys()
    for name, tap in case.network.taps.items():
        height, width = case.x.shape[2:]
        size = () if tap.stride is None else (-(-height // tap.stride), -(-width // tap.stride))
        assert output.taps[name].shape == (4, tap.channels, *size), name
    assert torch.equal(case.network.head(output.taps["pooled"]), output.logits)


def test_a_pre_tap_is_the_stage_before_its_activation(case):
    taps = case.network(case.x, tuple(case.network.taps)).taps
    for name in (name for name in taps if name.endswith(".pre")):
        before, after = taps[name], taps[name.removesuffix(".pre")]
        if (case.name, name) in LINEAR:
            assert torch.equal(after, before), name
        else:
            assert before.min() < 0, name  # what an activation in place would have spoilt
            assert torch.equal(after, before.relu()) or torch.equal(
                after, functional.leaky_relu(before, 0.2)
            ), name


def test_asking_for_a_tap_changes_nothing(structure):
    everything = structure.network(structure.x, tuple(structure.network.taps))
    assert torch.equal(structure.network(structure.x).logits, everything.logits)
    for name in structure.network.taps:
        alone = structure.network(structure.x, (name,))
        assert list(alone.taps) == [name]
        assert torch.equal(alone.taps[name], everything.taps[name]), name
        assert torch.equal(alone.logits, everything.logits), name


def test_the_trunk_of_a_tap_is_what_it_depends_on(structure):
    names = dict(structure.network.named_parameters())
    output = structure.network(structure.x, tuple(structure.network.taps))
    for tap, value in ((tap, value) for tap, value in output.taps.items() if value.requires_grad):
        gradients = torch.autograd.grad(
            value.sum(), list(names.values()), allow_unused=True, retain_graph=True
        )
        reached = {
            name for name, gradient in zip(names, gradients, strict=True) if gradient is not None
        }
        trunk = {
            id(parameter)
            for module in structure.network.trunk(tap)
            for parameter in module.parameters()
        }
        assert reached == {name for name, parameter in names.items() if id(parameter) in trunk}, tap


def test_the_norm_of_a_pre_tap_gives_it(structure):
    found = {tap: structure.network.norm_at(tap) for tap in structure.network.taps}
    assert all(norm is None or tap.endswith(".pre") for tap, norm in found.items())
    assert all(
        norm.num_features == structure.network.taps[tap].channels
        for tap, norm in found.items()
        if norm is not None
    )


def test_its_state_is_all_there_is_to_it(structure):
    state = structure.network.state_dict()
    storages = [tensor.data_ptr() for tensor in state.values() if tensor.numel()]
    # a checkpoint cannot hold one tensor under two names
    assert len(set(storages)) == len(storages)
    other = build(structure.name, shape_for(structure.name), seed=1)
    other.load_state_dict(state)
    assert torch.equal(other.eval()(structure.x).logits, structure.network(structure.x).logits)


def test_a_copy_is_equal_and_independent(structure):
    twin = copy.deepcopy(structure.network)
    assert torch.equal(twin(structure.x).logits, structure.network(structure.x).logits)
    with torch.no_grad():
        twin.head.weight.add_(1)
    assert not torch.equal(twin(structure.x).logits, structure.network(structure.x).logits)


def test_an_unknown_tap_is_named_with_those_that_exist(structure):
    for ask in (
        lambda: structure.network(structure.x, ("stage9",)),
        lambda: structure.network.trunk("stage9"),
        lambda: structure.network.norm_at("stage9"),
    ):
        with pytest.raises(Incompatible, match="'stage9'") as caught:
            ask()
        assert structure.name in caught.value.message
        assert "pooled" in caught.value.hint


@pytest.mark.parametrize("name", OURS)
def test_a_smaller_sibling_is_smaller(name):
    sibling = catalog.entry("model", name).facts["smaller"]
    if sibling is not None:
        with torch.device("meta"):
            large, small = (
                sum(p.numel() for p in build(which, shape_for(name)).parameters())
                for which in (name, sibling)
            )
        assert small < 0.6 * large  # ResNet-34 teaches ResNet-18 in all tables
