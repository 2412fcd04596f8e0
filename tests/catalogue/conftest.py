"""A tiny world that every method of the catalogue can live in: networks with all the usual taps,
teachers, a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdcli.core import random
from kdcli.core.method import Method, Setup
from kdcli.core.network import Blueprint, Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, DataInfo, Output, Tap
from kdcli.engine.distributed import Ranks
from kdcli.jobs import build_network

CLASSES, IMAGES, SHAPE = 5, 20, (3, 8, 8)

# methods that compare channel by channel: their teacher is as wide as their student
EQUAL_CHANNELS = frozenset({"fsp", "kdsvd"})

# methods of vision transformers: such is their student, with a distillation token; and what they
# read the tokens of a teacher for is one too
TOKENS, TAUGHT_BY_TOKENS = frozenset({"deit", "vitkd"}), frozenset({"vitkd"})


class TinyNet(Network):
    """A convolutional stem, three stages (the last two halve the map), pooling, a head. Channels:
    width, w, 2w, 4w.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (width, width, 2 * width, 4 * width)
        strides = (1, 1, 2, 2)
        self.names = ("stem", "stage1", "stage2", "stage3")
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            for before, after, stride in zip((SHAPE[0], *channels), channels, strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)
        self.head = nn.Linear(channels[-1], CLASSES)
        taps, stride = {}, 1
        for name, count, step in zip(self.names, channels, strides, strict=True):
            stride *= step
            taps |= {name: Tap(count, stride), f"{name}.pre": Tap(count, stride)}
        self.taps = taps | {"pooled": Tap(channels[-1], None)}

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        found = {}
        for name, conv, norm in zip(self.names, self.convs, self.norms, strict=True):
            found[f"{name}.pre"] = norm(conv(x))
            x = found[name] = found[f"{name}.pre"].relu()
        found["pooled"] = x.mean((2, 3))
        return Output(self.head(found["pooled"]), {tap: found[tap] for tap in taps})

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        depth = 4 if upto == "pooled" else self.names.index(upto.removesuffix(".pre")) + 1
        return (*self.convs[:depth], *self.norms[:depth])

    def tail(self, tap: str) -> nn.Module:
        start = self.names.index(tap) + 1
        parts = zip(self.convs[start:], self.norms[start:], strict=True)
        row = [layer for conv, norm in parts for layer in (conv, norm, nn.ReLU())]
        return nn.Sequential(*row, nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.head)

    def norm_at(self, tap: str) -> nn.BatchNorm2d | None:
        return (
            self.norms[self.names.index(tap.removesuffix(".pre"))] if tap.endswith(".pre") else None
        )


def tiny(width: int, seed: int) -> TinyNet:
    with random.seeded(seed, "tiny"):
        network = TinyNet(width)
        # statistics of a network that was trained, not of one that was just made
        for norm in network.norms:
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
        network.head.weight.data *= 4
    network.blueprint = Blueprint("tiny", {"width": width})
    return network


def tiny_transformer(width: int, seed: int) -> Network:
    network = build_network(
        "vit-mini",
        num_classes=CLASSES,
        input_shape=SHAPE,
        options={
            "depth": 3,
            "width": width,
            "heads": 2,
            "hidden": 2 * width,
            "patch": 2,
            "distillation_token": True,
        },
        seed=seed,
    )
    network.head.weight.data *= 40
    return network


@pytest.fixture
def batch() -> Batch:
    """16 images of all five classes."""
    counters = torch.arange(16 * 3 * 8 * 8)
    x = 2 * random.uniform(random.key(0, "pixels"), counters).view(16, *SHAPE) - 1
    index = torch.arange(16)
    return Batch(x, index % CLASSES, index, torch.zeros(16, dtype=torch.int64))


def tiny_setup(method: type[Method]) -> Setup:
    """A Setup with as many teachers as the method wants at least, each of other weights."""
    name = method.__module__.rpartition(".")[2]
    wide = 4 if name in EQUAL_CHANNELS else 8
    teaches = tiny_transformer if name in TAUGHT_BY_TOKENS else tiny
    teachers = tuple(
        Teacher(teaches(wide, 100 + position)) for position in range(method.teachers.least)
    )
    built = iter(range(200, 300))
    widths = {"teacher": wide, "between": 6}
    return Setup(
        student=tiny_transformer(4, 1) if name in TOKENS else tiny(4, 1),
        teachers=teachers,
        data=DataInfo(
            name="tiny",
            num_classes=CLASSES,
            num_train=IMAGES,
            input_shape=SHAPE,
            class_names=tuple("abcde"),
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            fingerprint="tiny",
            targets=torch.arange(IMAGES) % CLASSES,
            superclass=torch.tensor([0, 0, 1, 1, 1]),
        ),
        build=lambda name: tiny(widths.get(name, 4), next(built)),
        # the same checkpoint is the same teacher, whenever it is loaded
        load=lambda path: Teacher(
            tiny(wide, random.integers_int(random.key(0, path), 0, 1000) + 300)
        ),
        gather=Ranks.current().gather,
        history=("early", "late"),
        between=lambda: {
            "between": sum(parameter.numel() for parameter in tiny(6, 0).parameters())
        },
    )


@pytest.fixture
def make_setup() -> Callable[[type[Method]], Setup]:
    """How to make a Setup for a method."""
    return tiny_setup
