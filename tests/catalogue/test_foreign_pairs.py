"""Networks of other libraries, each as teacher and as student of methods on logits, vectors, maps
and memory banks.
"""

from __future__ import annotations

import copy
import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kdcli.catalog import names
from kdcli.core import random
from kdcli.core.method import Method, Setup
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, DataInfo
from kdcli.errors import UsageError
from kdcli.jobs.build.method import method_class
from kdcli.jobs.build.networks import build_network
from tests.catalogue.test_pairs import train_a_step
from tests.unit.models import tiny_hf, tiny_timm

CLASSES, IMAGES, SHAPE = 6, 12, (3, 32, 32)
METHODS = ("kd", "skd", "dkd", "rkd", "at", "crd", "fitnet")
# of each family that somebody may bring, one by one library
FAMILIES = tuple(tiny_timm.FAMILIES)
THEIRS = tuple(f"hf/{family}" for family in tiny_hf.FAMILIES)
QUICK = ("hf/vit", "timm/convnext_atto", "hf/swin", "timm/mobilenetv4_conv_small_035")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as root:
        yield Path(root)


@functools.lru_cache
def network(name: str, root: Path) -> Network:
    library, _, family = name.partition("/")
    pytest.importorskip({"hf": "transformers"}.get(library, library))
    options = {}
    if library == "hf":
        tiny_hf.save(root / family, family, CLASSES)
        name = f"hf/{root / family}"
    else:
        options = {"arguments": tiny_timm.FAMILIES[name]}
    return build_network(name, num_classes=CLASSES, input_shape=SHAPE, options=options)


def pictures() -> Batch:
    x = 2 * random.uniform(5, torch.arange(IMAGES * 3 * 32 * 32)).view(IMAGES, *SHAPE) - 1
    index = torch.arange(IMAGES)
    return Batch(x, index % CLASSES, index, torch.zeros(IMAGES, dtype=torch.int64))


def made(name: str, teacher: Network, student: Network) -> Method:
    cls = method_class(name)
    most = cls.teachers[1]
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
        student=copy.deepcopy(student),  # simkd takes its head off
        teachers=() if most == 0 else (Teacher(teacher),) * max(cls.teachers.least, 1),
        data=data,
        build=lambda _: copy.deepcopy(student),
        load=lambda _: Teacher(teacher),
        gather=lambda tensor: tensor,
    )
    with random.seeded(0, "method"):
        return cls(cls.Options(), setup)


def in_a_ring(chain: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each of them once as a teacher and once as a student."""
    return list(itertools.pairwise([*chain, chain[0]]))


RING = in_a_ring(QUICK)
ALL = [pair for pair in in_a_ring((*FAMILIES, *THEIRS)) if pair not in RING]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "pair", [*RING, *(pytest.param(pair, marks=pytest.mark.slow) for pair in ALL)]
)
def test_a_pair_takes_a_step(pair, method, folder):
    teacher, student = (network(name, folder) for name in pair)
    assert train_a_step(made(method, teacher, student), pictures())


@pytest.mark.slow
@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize("pair", RING)
def test_every_method_works_or_says_before_training_what_it_lacks(pair, method, folder):
    teacher, student = (network(name, folder) for name in pair)
    refusal = None
    try:
        built = made(method, teacher, student)
    except UsageError as error:
        refusal = error
    if refusal is None:
        assert train_a_step(built, pictures())
    else:
        assert refusal.hint
        assert any(
            word in refusal.message
            for word in (
                *("tap", "stage", "stem", "token", "norm", "channels", "checkpoints", "last layer"),
                *("assistant", "superclasses"),  # of the recipe, whichever networks there are
            )
        )
