"""A pair of networks and a handful of pictures that train in milliseconds."""

from __future__ import annotations

import pytest

from benchmarks.pairs import BATCH, Pair, make_noise, make_teacher, workshop
from benchmarks.segments import Place


@pytest.fixture
def pair():
    # so few steps that nothing is worth compiling
    return Pair("cnn-large", "cnn-small", shape=(1, 8, 8), classes=10, crop=1, flip=True, steps=4)


@pytest.fixture
def folder():
    with workshop() as made:
        yield made


@pytest.fixture
def noise(pair, folder):
    return make_noise(folder / "noise.npz", pair.shape, pair.classes, train=4 * BATCH, test=BATCH)


@pytest.fixture
def teacher(pair, noise, folder):
    return make_teacher(pair, noise, folder)


@pytest.fixture
def place(noise):
    return Place(noise.path, device="cpu")
