"""Networks of the user's own: what is taken as it is, and what is refused with a reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcli.core.network import Network
from kdcli.core.types import Output, Tap
from kdcli.errors import Incompatible, UsageError
from kdcli.models.user import adapt

SHAPE = (1, 8, 8)


def dense(num_classes: int = 10, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes)
    )


class Own(Network):
    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.head = nn.Linear(64, outputs)
        self.taps = {"pooled": Tap(64, None)}

    def forward(self, x, taps=()):
        return Output(self.head(x.flatten(1)), dict.fromkeys(taps, x.flatten(1)))

    def trunk(self, upto):
        return ()


def wrap(factory) -> Network:
    return adapt(factory, num_classes=10, input_shape=SHAPE, source="mine.py:make")


def test_a_module_is_split_at_its_last_linear_layer():
    module = dense()
    expected = module(torch.ones(2, *SHAPE))
    network = wrap(lambda **_: module)
    output = network(torch.ones(2, *SHAPE), ("pooled",))
    torch.testing.assert_close(output.logits, expected)
    assert output.taps["pooled"].shape == (2, 16)
    assert network.taps == {"pooled": Tap(16, None)}
    assert network.head.in_features == 16
    assert network.training
    with pytest.raises(Incompatible, match=r"mine\.py:make has no tap 'stage1'"):
        network(torch.ones(2, *SHAPE), ("stage1",))


@pytest.mark.parametrize(
    "factory",
    [
        lambda num_classes, input_shape: dense(num_classes) if input_shape == SHAPE else None,
        lambda classes: dense(num_classes=classes),
        lambda classes, width=3: dense(classes, width),
        lambda **arguments: dense(arguments["num_classes"]),
        lambda input_shape: dense() if input_shape == SHAPE else None,
        lambda: dense(10),
        dense,
        lambda num_classes: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, num_classes))),
    ],
)
def test_a_factory_is_given_what_it_takes(factory):
    assert wrap(factory)(torch.ones(3, *SHAPE)).logits.shape == (3, 10)


def test_a_network_passes_as_it_is():
    mine = Own()
    assert wrap(lambda: mine) is mine


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1)), x


def broken(num_classes):
    raise ZeroDivisionError("by me")


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (3, "is a int, not a function"),
        (broken, "failed: ZeroDivisionError: by me"),
        (lambda num_classes: "network", "returned a str, not a torch.nn.Module"),
        (lambda a, b: dense(), "failed: TypeError"),
        (lambda: nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), "has no torch.nn.Linear"),
        (lambda: dense(7), r"a tensor of \[2, 7\], not \[2, 10\]"),
        (lambda: Own(7), r"a tensor of \[2, 7\], not \[2, 10\]"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(99, 10)),
            "fails on pictures of 1x8x8: RuntimeError",
        ),
        (
            lambda: nn.Sequential(dense(), nn.LogSoftmax(1)),
            "does something after its last linear layer, 0.3",
        ),
        (Pair, "answers with a tuple, not with logits"),
    ],
)
def test_what_cannot_be_distilled_is_refused_with_the_reason(factory, words):
    with pytest.raises(UsageError, match=words) as caught:
        wrap(factory)
    assert caught.value.message.startswith("mine.py:make")


def test_looking_at_a_module_does_not_change_it():
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10)
    )
    module[2].eval()
    network = wrap(lambda: module)
    assert int(module[1].num_batches_tracked) == 0
    assert module[1].training
    assert not module[2].training
    assert network.net is module


def test_it_can_be_built_without_values():
    with torch.device("meta"):
        assert wrap(dense).head.weight.is_meta
