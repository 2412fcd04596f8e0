"""Tap patterns: what they stand for in networks of any depth, and how a miss is reported."""

from __future__ import annotations

import pytest
from torch import nn

from kdcli.core.network import Network
from kdcli.core.taps import check_maps, expand, name_of
from kdcli.core.types import Tap
from kdcli.errors import Incompatible


class Declared(Network):
    """A network that only declares its taps, in the order given: channels 1, 2, 3, ..."""

    def __init__(self, *taps: str, vectors: tuple[str, ...] = ("pooled",)) -> None:
        super().__init__()
        self.taps = {
            tap: Tap(channels, None if tap in vectors else 2)
            for channels, tap in enumerate(taps, 1)
        }

    def forward(self, x, taps=()):
        raise NotImplementedError

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        return ()


THREE = Declared("stem", "stage1.pre", "stage1", "stage2.pre", "stage2", "stage3", "pooled")


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ((), ()),
        (("stage*",), ("stage1", "stage2", "stage3")),
        (("last",), ("stage3",)),
        (("pooled", "stem", "stage2.pre"), ("pooled", "stem", "stage2.pre")),
        (("stem", "stage*", "pooled"), ("stem", "stage1", "stage2", "stage3", "pooled")),
    ],
)
def test_patterns_stand_for_taps_in_their_order(patterns, found):
    assert expand(THREE, patterns, "at") == found


def test_before_the_activation():
    network = Declared("stage1.pre", "stage1", "stage2.pre", "stage2", "pooled")
    assert expand(network, ("stage*.pre",), "ab") == ("stage1.pre", "stage2.pre")
    assert expand(network, ("last.pre",), "ab") == ("stage2.pre",)


def test_stages_come_in_the_order_of_the_network_not_of_the_alphabet():
    network = Declared(*(f"stage{number}" for number in range(1, 12)))
    assert expand(network, ("stage*",), "at")[-2:] == ("stage10", "stage11")
    assert expand(network, ("last",), "sp") == ("stage11",)


@pytest.mark.parametrize(
    ("pattern", "missing"),
    [
        ("stage4", "stage4"),
        ("stage*.pre", "stage3.pre"),
        ("last.pre", "stage3.pre"),
        ("stage1.post", "stage1.post"),
        ("", ""),
    ],
)
def test_a_tap_that_is_not_there_is_named_with_those_that_are(pattern, missing):
    with pytest.raises(Incompatible) as caught:
        expand(THREE, ("stem", pattern), "fitnet")
    assert caught.value.message == f"fitnet reads '{missing}', which Declared does not have"
    assert (
        caught.value.hint
        == "its taps are stem, stage1.pre, stage1, stage2.pre, stage2, stage3, pooled"
    )


@pytest.mark.parametrize("pattern", ["stage*", "last", "stage*.pre"])
def test_a_network_without_stages_is_told_which_pattern_found_nothing(pattern):
    with pytest.raises(Incompatible) as caught:
        expand(Declared("pooled"), (pattern,), "at")
    assert caught.value.message == f"at reads '{pattern}', which Declared does not have"
    assert caught.value.hint == "its taps are pooled"


def test_a_network_is_called_by_its_name_or_by_its_class():
    network = Declared("pooled")
    assert name_of(network) == "Declared"
    network.name = "resnet20"
    assert name_of(network) == "resnet20"


def test_vectors_are_refused_where_maps_are_compared():
    network = Declared("stage1", "stage2", "pooled", vectors=("stage2", "pooled"))
    check_maps(network, (), "at")
    check_maps(network, ("stage1",), "at")
    with pytest.raises(Incompatible) as caught:
        check_maps(network, ("stage1", "stage2", "pooled"), "at")
    assert caught.value.message == "at compares feature maps, and 'stage2' of Declared is a vector"
    assert "convolutional" in caught.value.hint
