"""Teachers' copies for training: they answer as the network itself does, to a stated tolerance, and
leave the network alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdcli.core import random
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output, Tap
from kdcli.engine.teachers.inference import InferenceTeacher, fold
from kdcli.jobs import build_network

SHAPE = (3, 32, 32)
# teachers of the papers' tables, one a family; how many of their batch norms a convolution feeds
# alone
FOLDABLE = {
    "resnet32x4": "all",
    "wrn_40_2": 18,  # norms before activations stay, but for the one in the middle of each block
    "vgg13": "all",
    "resnet50": "all",
    "mobilenet_v1": "all",
    "mobilenet_v2": "all",
    "shufflenet_v1": "all",
    "shufflenet_v2": "all",
    "fashion-mnist-large": 0,  # has none
}
EXACT = 1e-4  # of folding alone, as a share of the logits' spread over classes
LOW = 0.1  # of bf16: at most, for any logit of the untrained networks here


def trained_looking(name: str) -> Network:
    """With statistics that are not a new batch norm's, so that folding has something to do."""
    shape = (1, 28, 28) if name.startswith("fashion") else SHAPE
    network = build_network(name, num_classes=10, input_shape=shape)
    with random.seeded(0, "statistics"):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.eval()


def images(network_name: str, count: int = 4) -> Batch:
    shape = (1, 28, 28) if network_name.startswith("fashion") else SHAPE
    x = (
        2 * random.uniform(7, torch.arange(count * torch.Size(shape).numel())).view(count, *shape)
        - 1
    )
    index = torch.arange(count)
    return Batch(x, index % 10, index, torch.zeros_like(index))


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference of a logit, in spreads of the logits over classes."""
    spread = (expected - expected.mean(1, keepdim=True)).std()
    return float((found.float() - expected).abs().max() / spread)


@pytest.mark.parametrize("name", FOLDABLE)
def test_the_copy_answers_as_the_network(name: str) -> None:
    plain = Teacher(trained_looking(name))
    batch = images(name)
    expected = plain(batch).logits
    exact = InferenceTeacher(plain, torch.float32, channels_last=True)
    low = InferenceTeacher(plain, torch.bfloat16, channels_last=True)

    assert exact.folded == (exact.norms if FOLDABLE[name] == "all" else FOLDABLE[name])
    assert error(exact(batch).logits, expected) < EXACT
    assert error(low(batch).logits, expected) < LOW
    assert low(batch).logits.dtype == torch.float32


@pytest.mark.parametrize("name", ["resnet32x4", "wrn_40_2"])
def test_the_copy_gives_every_tap(name: str) -> None:
    plain = Teacher(trained_looking(name))
    taps = tuple(plain.network.taps)
    expected = plain(images(name), taps).taps
    found = InferenceTeacher(plain, torch.float32, channels_last=True)(images(name), taps).taps
    assert list(found) == list(expected)
    for tap, value in found.items():
        torch.testing.assert_close(
            value, expected[tap], rtol=1e-4, atol=1e-4 * float(expected[tap].abs().max())
        )


def test_the_step_s_precision_is_not_the_teacher_s() -> None:
    plain = Teacher(trained_looking("resnet32x4"))
    exact = InferenceTeacher(plain, torch.float32, channels_last=True)
    expected = exact(images("resnet32x4")).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact(images("resnet32x4")).logits, expected)


def test_taps_come_in_the_step_s_precision() -> None:
    teacher = InferenceTeacher(
        Teacher(trained_looking("resnet32x4")), torch.bfloat16, channels_last=True
    )
    batch, taps = images("resnet32x4"), tuple(teacher.network.taps)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = teacher(batch, taps).taps
    assert torch.bfloat16 in {value.dtype for value in mixed.values()}
    for tap, value in teacher(batch, taps).taps.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, mixed[tap].float())


def test_the_network_itself_stays_as_it_was() -> None:
    network = trained_looking("resnet32x4")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    teacher = InferenceTeacher(Teacher(network), torch.bfloat16, channels_last=True)
    teacher(images("resnet32x4"))
    after = teacher.network.state_dict()
    assert teacher.network is network
    assert list(after) == list(before)
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype
        for name, tensor in before.items()
    )


def test_what_is_measured_is_the_network_itself() -> None:
    network = trained_looking("resnet32x4")
    batch = images("resnet32x4")
    teacher = InferenceTeacher(Teacher(network), torch.bfloat16, channels_last=True)
    with torch.no_grad():
        assert torch.equal(teacher.live(batch).logits, network(batch.x).logits)


def test_other_normalisation_holds_for_the_copy() -> None:
    scale, shift = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, 0.0, -0.1])
    plain = Teacher(trained_looking("resnet32x4"), renormalise=(scale, shift))
    batch = images("resnet32x4")
    assert (
        error(
            InferenceTeacher(plain, torch.float32, channels_last=False)(batch).logits,
            plain(batch).logits,
        )
        < EXACT
    )


class Shared(Network):
    """One convolution that two batch norms read, one that is called twice, and a branch that
    tracing cannot follow.
    """

    def __init__(self, *, branch: bool) -> None:
        super().__init__()
        self.branch = branch
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)
        self.taps = {"pooled": Tap(4, None)}

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        x = self.conv(x)
        x = self.first(x) + self.second(x)
        if self.branch and x.sum() > 0:
            x = -x
        x = self.third(self.again(self.again(x)))
        pooled = x.mean((2, 3))
        return Output(self.classify(pooled), dict.fromkeys(taps, pooled))

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        raise NotImplementedError(upto)


@pytest.mark.parametrize("branch", [False, True])
def test_what_cannot_be_folded_is_left_alone(branch: bool) -> None:
    with random.seeded(0, "init"):
        network = Shared(branch=branch)
    plain = Teacher(network)
    assert fold(network).folded == 0
    batch = images("")
    assert torch.equal(
        InferenceTeacher(plain, torch.float32, channels_last=False)(batch).logits,
        plain(batch).logits,
    )


class Counted(Network):
    """Remembers how many images it is given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)
        self.taps = {"pooled": Tap(3, None)}
        self.sizes: list[int] = []

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        self.sizes.append(len(x))
        pooled = x.mean((2, 3))
        return Output(self.classify(pooled), dict.fromkeys(taps, pooled))

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        raise NotImplementedError(upto)


class TestAhead:
    """Several minibatches answered at once."""

    @pytest.fixture
    def teacher(self) -> InferenceTeacher:
        with random.seeded(0, "init"):
            return InferenceTeacher(Teacher(Counted()), torch.float32, channels_last=False)

    @pytest.fixture
    def minibatches(self) -> list[Batch]:
        whole = images("", 12)
        return [
            Batch(
                whole.x[at : at + 4],
                whole.y[at : at + 4],
                whole.index[at : at + 4],
                whole.view[at : at + 4],
            )
            for at in (0, 4, 8)
        ]

    def sizes(self, teacher: InferenceTeacher) -> list[int]:
        graph = teacher._graph
        assert isinstance(graph, Counted)
        return graph.sizes

    def test_the_answers_are_the_same(
        self, teacher: InferenceTeacher, minibatches: list[Batch]
    ) -> None:
        expected = [teacher(batch).logits for batch in minibatches]
        teacher.expect(minibatches)
        for batch, logits in zip(minibatches, expected, strict=True):
            torch.testing.assert_close(teacher(batch).logits, logits)
        assert self.sizes(teacher)[3:] == [12]

    def test_nothing_is_computed_for_who_has_not_asked(
        self, teacher: InferenceTeacher, minibatches: list[Batch]
    ) -> None:
        teacher.expect(minibatches)
        assert self.sizes(teacher) == []

    def test_maps_are_computed_when_they_are_asked_for(
        self, teacher: InferenceTeacher, minibatches: list[Batch]
    ) -> None:
        teacher(minibatches[0], ("pooled",))
        teacher.expect(minibatches)
        teacher(minibatches[0], ("pooled",))
        assert self.sizes(teacher) == [4, 4]

    def test_it_stops_when_nobody_asks_any_more(
        self, teacher: InferenceTeacher, minibatches: list[Batch]
    ) -> None:
        teacher(minibatches[0])
        teacher.expect(minibatches)
        teacher.expect(minibatches)  # what was held has not been asked for
        teacher.expect(minibatches)
        assert self.sizes(teacher) == [4, 12]
