"""A tiny network, a tiny method and a feed made of noise: the engine alone, without zoo or
datasets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from kdcli.core import random
from kdcli.core.method import Method, MethodOptions, Setup, Stage
from kdcli.core.network import Network
from kdcli.core.types import Arity, Batch, DataInfo, Draw, Output, Progress, Step, Tap
from kdcli.engine.runtime import Runtime

CLASSES = 3


class Tiny(Network):
    """Convolution, batch norm, dropout: everything whose state or randomness a resume could
    forget.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taps = {"pooled": Tap(4, None)}
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        pooled = self.drop(self.norm(self.conv(x)).relu().mean((2, 3)))
        return Output(self.head(pooled), {"pooled": pooled} if taps else {})

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        return (self.conv, self.norm)


class CrossEntropyMethod(Method):
    Options = MethodOptions
    teachers = Arity(0, 0)

    def loss(self, batch: Batch, at: Progress) -> Step:
        z = self.student(batch.x).logits
        return Step({"ce": nn.functional.cross_entropy(z.float(), batch.y)}, z)


class TwoStages(CrossEntropyMethod):
    """Trains the trunk for two epochs, then everything."""

    def stages(self) -> list[Stage]:
        return [
            Stage("hint", self.student.trunk("pooled"), self.loss, epochs=2, optim={"lr": 0.01}),
            Stage("distill", (self,), self.loss),
        ]


class ThreeStages(TwoStages):
    """Before them, trains a helper that is not shipped."""

    def __init__(self, options: MethodOptions, setup: Setup) -> None:
        super().__init__(options, setup)
        self.helper = Tiny()

    def stages(self) -> list[Stage]:
        return [
            Stage("helper", (self.helper,), self._help, epochs=8, network=self.helper),
            *super().stages(),
        ]

    def _help(self, batch: Batch, at: Progress) -> Step:
        z = self.helper(batch.x).logits
        return Step({"ce": nn.functional.cross_entropy(z.float(), batch.y)}, z)


@dataclass
class NoiseFeed:
    """Images of noise whose mean tells the class."""

    batch_size: int = 8
    n: int = 40
    held_out: int = 0
    info: DataInfo = field(init=False)

    def __post_init__(self) -> None:
        with random.seeded(0, "noise"):
            self._y = torch.arange(self.n) % CLASSES
            self._x = torch.randn(self.n, 1, 6, 6) + self._y.view(-1, 1, 1, 1)
        names = tuple("abc")
        self.info = DataInfo(
            "noise", CLASSES, self.n, (1, 6, 6), names, (0.0,), (1.0,), "f", self._y
        )

    def to(self, device: torch.device) -> None:
        self._x, self._y = self._x.to(device), self._y.to(device)

    @property
    def train_batches(self) -> int:
        return -(-self.n // self.batch_size)

    @property
    def resident(self) -> bool:
        return True

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return (self.view(draw.index, draw.view) for draw in self.draws(epoch, start))

    def draws(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        order = random.permutation(random.key(0, "order", epoch), self.n, self._x.device)
        for first in range(start * self.batch_size, self.n, self.batch_size):
            index = order[first : first + self.batch_size]
            yield Draw(index, torch.zeros_like(index))

    def view(self, index: Tensor, view: Tensor) -> Batch:
        return Batch(self._x[index], self._y[index], index, view)

    def split(self, name: str) -> Iterator[Batch]:
        index = torch.arange(self.n)
        yield Batch(self._x, self._y, index, torch.zeros_like(index))

    def size(self, name: str) -> int:
        return self.n if name != "val" else self.held_out


@pytest.fixture
def runtime() -> Runtime:
    return Runtime("cpu", precision="fp32")


@pytest.fixture
def feed() -> NoiseFeed:
    return NoiseFeed()


MakeMethod = Callable[..., Method]


@pytest.fixture
def make_method(feed: NoiseFeed, runtime: Runtime) -> MakeMethod:
    def make(kind: type[Method] = CrossEntropyMethod) -> Method:
        with random.seeded(0, "init"):
            student = Tiny()

        def unused(_name: str) -> Network:
            raise AssertionError

        def no_teacher(_path: str) -> object:
            raise AssertionError

        method = kind(
            MethodOptions(),
            Setup(student, (), feed.info, unused, no_teacher, lambda tensor: tensor),
        )  # type: ignore[arg-type]
        runtime.move(method)
        return method

    return make
