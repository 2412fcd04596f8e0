"""Every pair of networks in the tables of papers 000 and 003, under every method of the catalogue.

A pair builds and takes a step whose losses and gradients are finite and reach what is deployed, or
the method refuses it before training. Each pair meets one method on logits, one on all maps and the
one that cannot compare all; a pair of different families meets every method; the rest is slow, that
of the deepest teachers too.
Tables 5 and 6 of paper 003 name their teachers only, so they add no pair.
"""

from __future__ import annotations

import copy
import functools
import itertools

import pytest
import torch
from torch import nn

from kdcli import catalog
from kdcli.core import random
from kdcli.core.method import Method, Setup
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, DataInfo, Progress
from kdcli.errors import Incompatible
from kdcli.jobs import build_network
from kdcli.jobs.build.method import method_class
from kdcli.jobs.build.teachers import LoadedTeacher, between
from kdcli.results.run import TeacherSummary

Pair = tuple[str, str]  # teacher, student

CLASSES, IMAGES, TRAIN = 6, 4, 24
SMALL, LARGE = (3, 16, 16), (3, 32, 32)  # networks for photographs halve more often

SKD_1_2_7 = [(f"resnet{depth}", "resnet14") for depth in (20, 32, 44, 56, 110)]
SKD_3 = [
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
]
SKD_4 = [
    ("resnet50", "mobilenet_v2"),
    ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenet_v1"),
    ("resnet32x4", "shufflenet_v2"),
    ("wrn_40_2", "shufflenet_v1"),
]
SKD_5_6 = [(f"torchvision/resnet{depth}", "torchvision/resnet18") for depth in (34, 50, 101, 152)]
SLKD_1_8 = [
    ("resnet32x4", "resnet8x4"),
    ("resnet56", "resnet8"),
    ("wrn_40_2", "wrn_40_1"),
    ("wrn_40_2", "wrn_16_2"),
    ("vgg13", "vgg11"),
    ("vgg13", "vgg8"),
]
SLKD_2_7_9 = [
    ("resnet32x4", "shufflenet_v2"),
    ("resnet32x4", "shufflenet_v1"),
    ("resnet50", "mobilenet_v2"),
    ("vgg13", "mobilenet_v2"),
    ("wrn_40_2", "shufflenet_v1"),
]
SLKD_3_4 = [
    ("torchvision/resnet34", "torchvision/resnet18"),
    ("torchvision/resnet50", "mobilenet_v1"),
]

PAIRS: tuple[Pair, ...] = tuple(
    dict.fromkeys([*SKD_1_2_7, *SKD_3, *SKD_4, *SKD_5_6, *SLKD_1_8, *SLKD_2_7_9, *SLKD_3_4])
)
# the first reads logits, the second all maps, also before activation, and pooled vectors
EVERYWHERE = (
    "kd",
    "reviewkd",
    "fsp",
)
DEEP: tuple[Pair, ...] = tuple(
    (f"torchvision/resnet{depth}", "torchvision/resnet18") for depth in (101, 152)
)
THOROUGH: Pair = ("resnet32x4", "shufflenet_v2")

# pairs whose maps have the same channels at the stem and at every stage
EQUAL_CHANNELS = frozenset({
    *SKD_1_2_7,
    ("resnet56", "resnet20"), ("resnet110", "resnet20"), ("resnet110", "resnet32"), ("resnet56", "resnet8"), ("resnet32x4", "resnet8x4"),
    ("wrn_40_2", "wrn_16_2"), ("vgg13", "vgg8"), ("vgg13", "vgg11"), ("torchvision/resnet34", "torchvision/resnet18"),
})  # fmt: skip

# pairs without a network of the teacher's family between them in size; of torchvision's, kd knows
# no sizes without building them all
NO_ASSISTANT = frozenset({
    ("resnet20", "resnet14"), ("wrn_40_2", "wrn_16_2"), ("wrn_40_2", "shufflenet_v1"), ("vgg13", "vgg11"),
    *(pair for pair in PAIRS if pair[0].startswith("torchvision/")),
})  # fmt: skip

# method: pairs that it refuses with its default options, and the words of the refusal
REFUSED: dict[str, tuple[frozenset[Pair], str]] = {
    # a flow matrix is channels by channels: paper 000 prints no FSP for wrn_40_2 and wrn_40_1, nor
    # for different families
    "fsp": (frozenset(PAIRS) - EQUAL_CHANNELS, "fsp compares the flow channel by channel"),
    "kdsvd": (frozenset(PAIRS) - EQUAL_CHANNELS, "kdsvd compares singular vectors channel"),
    # these end in a convolution of their own behind the last stage
    "cat_kd": (
        frozenset(
            pair for pair in PAIRS if pair[1] in {"mobilenet_v1", "mobilenet_v2", "shufflenet_v2"}
        ),
        "does not read the average of its last map",
    ),
    "one": (
        frozenset(pair for pair in PAIRS if pair[1].startswith("torchvision/")),
        "cannot be cut after",
    ),
    # all of these networks are convolutional
    "deit": (frozenset(PAIRS), "deit reads the tokens of a vision transformer"),
    "vitkd": (frozenset(PAIRS), "vitkd reads the tokens of a vision transformer"),
    # their users name assistants there: method.assistants
    "ta": (NO_ASSISTANT, "ta needs an assistant, and the zoo has none of the teacher's family"),
    "dgkd": (NO_ASSISTANT, "dgkd needs an assistant, and the zoo has none of the teacher's family"),
}

# method: the weights that it deploys and does not train, being its teacher's
BORROWED = {"simkd": {"head.weight"}}


def cases():
    for pair, name in itertools.product(PAIRS, catalog.names("method")):
        usual = (name in EVERYWHERE and pair not in DEEP) or pair == THOROUGH
        marks = () if usual else pytest.mark.slow
        yield pytest.param(pair, name, id=f"{name}-{pair[0]}-{pair[1]}", marks=marks)


def shape_for(pair: Pair) -> tuple[int, int, int]:
    return LARGE if pair[0].startswith("torchvision/") else SMALL


def batch_for(pair: Pair) -> Batch:
    shape = shape_for(pair)
    counters = torch.arange(IMAGES * shape[0] * shape[1] * shape[2])
    x = 2 * random.uniform(random.key(0, "pixels"), counters).view(IMAGES, *shape) - 1
    index = torch.arange(IMAGES)
    return Batch(x, index % CLASSES, index, torch.zeros(IMAGES, dtype=torch.int64))


@functools.lru_cache(maxsize=4)
def network(name: str, pair: Pair) -> Network:
    """A network with running statistics of its own, not those of a new batch norm: else deep
    teachers answer with huge numbers.
    """
    made = build_network(name, num_classes=CLASSES, input_shape=shape_for(pair))
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        made.train()(batch_for(pair).x)
    for norm in norms:
        norm.momentum = 0.1
    return made


@functools.lru_cache
def assistants(pair: Pair) -> dict[str, int]:
    teacher, student = (network(name, pair) for name in pair)
    summary = TeacherSummary("", "", pair[0], 0, None)
    return between(LoadedTeacher(Teacher(teacher), summary, pair[0], {}), student, data_for(pair))


def data_for(pair: Pair) -> DataInfo:
    return DataInfo(
        name="pictures",
        num_classes=CLASSES,
        num_train=TRAIN,
        input_shape=shape_for(pair),
        class_names=tuple("abcdef"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        fingerprint="pictures",
        targets=torch.arange(TRAIN) % CLASSES,
        superclass=torch.tensor([0, 0, 1, 1, 2, 2]),
    )


def setup_for(pair: Pair, method: type[Method]) -> Setup:
    teacher, student = pair
    copies = itertools.count(1)

    def build(name: str) -> Network:
        real = {"teacher": teacher, "student": student}.get(name, name)
        return build_network(
            real, num_classes=CLASSES, input_shape=shape_for(pair), copy=next(copies)
        )

    return Setup(
        student=copy.deepcopy(network(student, pair)),
        teachers=tuple(Teacher(network(teacher, pair)) for _ in range(method.teachers.least)),
        data=data_for(pair),
        build=build,
        load=lambda _path: Teacher(network(teacher, pair)),
        gather=lambda tensor: tensor,
        history=("early", "late", "last"),
        between=lambda: assistants(pair),
    )


def make(pair: Pair, name: str) -> Method:
    cls = method_class(name)
    with random.seeded(0, "method"):
        return cls(cls.Options(), setup_for(pair, cls))


def train_a_step(method: Method, batch: Batch) -> set[str]:
    """One step of each stage, as the engine takes it. Gives the parameters of the deployable
    network that got a gradient which is not zero.
    """
    reached: set[str] = set()
    for stage in method.stages():
        method.requires_grad_(False).eval()
        method.zero_grad()
        for module in stage.trains:
            module.requires_grad_(True).train()
        at = Progress(stage.name, epoch=1, epochs=2, step=0, steps=2)
        method.on_epoch(at)
        step = stage.loss(batch, at)
        assert step.losses
        assert all(loss.isfinite() for loss in step.losses.values()), step.losses
        torch.stack(list(step.losses.values())).sum().backward()
        gradients = {
            key: parameter.grad
            for key, parameter in method.named_parameters()
            if parameter.grad is not None
        }
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        torch.optim.SGD(trained, lr=1e-3).step()
        own = {id(parameter): key for key, parameter in method.deployable().named_parameters()}
        by_id = {
            id(parameter): parameter.grad
            for parameter in method.parameters()
            if parameter.grad is not None
        }
        reached |= {own[each] for each, gradient in by_id.items() if each in own and gradient.any()}
    return reached


@pytest.mark.parametrize(("pair", "name"), list(cases()))
def test_a_pair_of_the_tables_takes_a_step_or_is_refused(pair, name):
    refused, words = REFUSED.get(name, (frozenset(), ""))
    if pair in refused:
        with pytest.raises(Incompatible, match=words) as caught:
            make(pair, name)
        assert caught.value.hint
        return
    method = make(pair, name)
    reached = train_a_step(method, batch_for(pair))
    weights = {
        key for key, parameter in method.deployable().named_parameters() if parameter.ndim > 1
    }
    weights -= BORROWED.get(name, set())
    assert weights <= reached, sorted(weights - reached)


def test_refusals_are_of_methods_and_pairs_that_exist():
    assert REFUSED.keys() <= set(catalog.names("method"))
    assert all(pairs <= set(PAIRS) for pairs, _ in REFUSED.values())
    assert set(PAIRS) >= EQUAL_CHANNELS


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_student_is_smaller_than_its_teacher(pair):
    (teacher, of_teacher), (student, of_student) = map(outline, pair)
    assert student < teacher
    assert (of_teacher == of_student) == (pair in EQUAL_CHANNELS)


@functools.cache
def outline(name: str) -> tuple[int, list[int]]:
    """How many parameters a network has, and the channels of its maps."""
    with torch.device("meta"):
        network = build_network(name, num_classes=100, input_shape=(3, 64, 64))
    count = sum(parameter.numel() for parameter in network.parameters())
    return count, [tap.channels for tap_name, tap in network.taps.items() if tap_name != "pooled"]
