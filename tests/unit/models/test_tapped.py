"""Taps at any module of anybody's network: what is kept, how it is laid out, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcli.core import random
from kdcli.core.network import Network
from kdcli.core.types import Tap
from kdcli.errors import Incompatible, NotFound
from kdcli.jobs.build.networks import build_network
from kdcli.models._headed import Headed, head_path
from kdcli.models._tapped import Tapped, modules, tapped
from kdcli.models.user import adapt

SHAPE = (3, 16, 8)


class Odd(nn.Module):
    """Tokens after a map, one relu for two places, a module that nobody calls, and a tuple."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.token = nn.Parameter(torch.ones(1, extra, 12))
        self.norm = nn.LayerNorm(12)
        self.unused = nn.Linear(1, 1)
        self.recurrent = nn.GRU(12, 5, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.relu(self.relu(self.conv(x))).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        self.recurrent(x[:, :7])
        return self.head(x[:, 0] if self.token.shape[1] else x.mean(1))


def odd(extra: int = 1) -> Network:
    with random.seeded(0, "init"):
        return adapt(lambda: Odd(extra), num_classes=4, input_shape=SHAPE, source="mine.py:odd")


def pictures() -> torch.Tensor:
    return random.uniform(3, torch.arange(2 * 3 * 16 * 8)).view(2, *SHAPE) * 2 - 1


@pytest.mark.parametrize("extra", [0, 1, 2, 5])
def test_tokens_become_the_map_that_they_were(extra):
    network = tapped(odd(extra), {"stage1": "norm"}, SHAPE).eval()
    assert network.taps == {"stage1": Tap(12, 2), "pooled": Tap(12, None)}
    x = pictures()
    with torch.no_grad():
        logits, taps = network(x, ("stage1", "pooled"))
        places = network.net.norm(network.net.conv(x).relu().flatten(2).transpose(1, 2))
    torch.testing.assert_close(taps["stage1"], places.transpose(1, 2).view(2, 12, 8, 4))
    torch.testing.assert_close(network.head(taps["pooled"]), logits)


def test_what_is_overwritten_afterwards_is_kept_as_the_module_gave_it():
    network = tapped(odd(), {"stage1": "conv"}, SHAPE)
    kept = network(pictures(), ("stage1",)).taps["stage1"]
    torch.testing.assert_close(kept, network.net.conv(pictures()))
    assert kept.min() < 0
    kept.sum().backward()
    assert network.net.conv.weight.grad.any()


def test_pooled_may_be_any_module_as_a_vector():
    network = tapped(odd(), {"pooled": "norm"}, SHAPE)
    logits, taps = network(pictures(), ("pooled",))
    torch.testing.assert_close(network.head(taps["pooled"]), logits)  # the class token
    network = tapped(odd(0), {"pooled": "conv"}, SHAPE)
    assert network(pictures(), ("pooled",)).taps["pooled"].shape == (2, 12)


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("norms", NotFound, "no module 'norms'"),
        ("relu", Incompatible, "it runs 2 times"),
        ("unused", Incompatible, "it does not run"),
        ("recurrent", Incompatible, "no tokens of a grid"),
    ],
)
def test_what_cannot_be_a_tap_is_refused_with_the_reason(path, error, words):
    with pytest.raises(error, match=words) as caught:
        tapped(odd(), {"stage1": path}, SHAPE)
    assert "kd models mine.py:odd --taps" in caught.value.hint
    if path == "norms":
        assert caught.value.hint.startswith("near it are norm")


def test_the_modules_that_can_be_taps():
    found = {path: layout for path, (_, layout) in modules(odd(), SHAPE).items()}
    assert list(found) == ["conv", "norm", "head"]
    assert (found["norm"].kind, found["norm"].height, found["norm"].width) == ("tokens", 8, 4)


def test_kds_own_networks_declare_their_taps():
    network = build_network("cnn-small", num_classes=4, input_shape=SHAPE)
    with pytest.raises(Incompatible, match="declares its taps itself"):
        tapped(network, {"stage1": "stages"}, SHAPE)


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("torchvision/resnet18", {"stage2": "layer2", "stage4": "layer4"}),
        ("torchvision/mobilenet_v3_small", {"stage1": "features.1", "stage3": "features.8"}),
    ],
)
def test_by_path_they_are_the_taps_that_torchvisions_families_have(name, taps):
    shape = (3, 64, 64)
    own = build_network(name, num_classes=4, input_shape=shape).eval()
    given = build_network(name, num_classes=4, input_shape=shape, options={"taps": taps}).eval()
    assert given.blueprint.arguments == {"taps": taps}
    x = random.uniform(3, torch.arange(2 * 3 * 64 * 64)).view(2, *shape)
    expected, found = own(x, (*taps, "pooled")), given(x, (*taps, "pooled"))
    torch.testing.assert_close(found, expected)
    assert {tap: own.taps[tap] for tap in given.taps} == given.taps
    assert own.state_dict().keys() == given.state_dict().keys()


def test_channels_may_come_last_and_a_network_may_be_tapped_anew():
    shape = (3, 32, 32)
    with torch.device("meta"):
        network = build_network(
            "torchvision/swin_t",
            num_classes=4,
            input_shape=shape,
            options={"taps": {"stage1": "features.1", "stage4": "features.7"}},
        )
        assert network.taps["stage4"] == Tap(768, 32)
        assert network.taps["stage1"] == Tap(96, 4)
        again = tapped(network, {"stage2": "features.3", "stage1": "features.1"}, shape)
        taps = again(torch.empty(2, *shape), ("stage1", "stage2")).taps
    assert list(again.taps) == ["stage1", "stage2", "pooled"]
    assert taps["stage2"].shape == (2, 192, 4, 4)
    assert sum(len(module._forward_hooks) for module in again.net.modules()) == 2


def test_a_network_that_computes_with_values_is_run():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 6), nn.Linear(6, 4)

        def forward(self, x):
            scale = 1.0 if float(x.sum()) >= 0 else 2.0  # no meta tensor has a value
            return self.head(self.first(x.flatten(1)[:, :8] * scale))

    headed = Headed("reads", net := Reads(), head_path(net))
    network = tapped(headed, {"stage1": "first"}, SHAPE)
    assert isinstance(network, Tapped)
    assert network.taps["stage1"] == Tap(6, None)


def test_compiled_it_gives_the_same():
    network = tapped(odd(), {"stage1": "conv", "stage2": "norm"}, SHAPE).eval()
    compiled = torch.compile(network.forward, backend="eager")
    taps = ("stage1", "stage2", "pooled")
    with torch.no_grad():  # its GRU breaks the graph in two
        torch.testing.assert_close(compiled(pictures(), taps), network(pictures(), taps))
