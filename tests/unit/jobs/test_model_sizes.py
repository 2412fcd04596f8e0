"""Sizes of many networks, measured once."""

from __future__ import annotations

import pytest

from kdcli.jobs import describe_model, describe_models, model_sizes
from kdcli.surroundings import cache_root

NAMES = ("torchvision/mobilenet_v3_small", "torchvision/squeezenet1_0")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path))


def test_they_are_those_of_each_network_and_remembered(monkeypatch):
    told = []
    first = describe_models(NAMES, measuring=told.append)
    assert first == {NAMES[0]: describe_model(NAMES[0]), NAMES[1]: None}  # it is none for kd
    monkeypatch.setattr(model_sizes, "describe_model", lambda *_: pytest.fail("measured again"))
    assert describe_models(NAMES, measuring=told.append) == first
    assert told == [2]


def test_what_there_is_no_time_for_is_left_out():
    assert describe_models(NAMES, seconds=0) == {}
    assert not (cache_root() / "networks").exists()


def test_a_damaged_memory_is_made_again():
    describe_models(NAMES[1:])
    (file,) = (cache_root() / "networks").iterdir()
    file.write_text("{")
    assert describe_models(NAMES[1:]) == {NAMES[1]: None}
    assert file.read_text() != "{"
