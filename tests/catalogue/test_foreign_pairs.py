"""Networks of other libraries, each as teacher and as student of methods on logits, vectors, maps
and memory banks.
"""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from kdcli.core import random
from kdcli.core.method import Setup
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, DataInfo
from kdcli.jobs.build.method import method_class
from kdcli.jobs.build.networks import build_network
from tests.catalogue.test_pairs import train_a_step
from tests.unit.models.tiny_timm import FAMILIES, SHAPE

pytest.importorskip("timm", reason="timm is not installed: pip install 'kdcli[timm]'")

CLASSES, IMAGES = 6, 12
METHODS = ("kd", "skd", "dkd", "rkd", "at", "crd", "fitnet")


@functools.lru_cache
def network(name: str) -> Network:
    return build_network(
        name, num_classes=CLASSES, input_shape=SHAPE, options={"arguments": FAMILIES[name]}
    )


def pictures() -> Batch:
    x = 2 * random.uniform(5, torch.arange(IMAGES * 3 * 32 * 32)).view(IMAGES, *SHAPE) - 1
    index = torch.arange(IMAGES)
    return Batch(x, index % CLASSES, index, torch.zeros(IMAGES, dtype=torch.int64))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pair", list(itertools.pairwise([*FAMILIES, next(iter(FAMILIES))])))
def test_a_pair_takes_a_step(pair, method):
    teacher, student = map(network, pair)
    data = DataInfo(
        name="pictures",
        num_classes=CLASSES,
        num_train=120,
        input_shape=SHAPE,
        class_names=tuple("abcdef"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        fingerprint="pictures",
        targets=torch.arange(120) % CLASSES,
    )
    setup = Setup(
        student=student,
        teachers=(Teacher(teacher),),
        data=data,
        build=lambda _: student,
        load=lambda _: Teacher(teacher),
        gather=lambda tensor: tensor,
    )
    cls = method_class(method)
    with random.seeded(0, "method"):
        made = cls(cls.Options(), setup)
    assert train_a_step(made, pictures())
