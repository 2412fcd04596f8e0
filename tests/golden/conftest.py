"""Methods on networks whose logits are given, so that a loss can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcli import catalog
from kdcli.core.method import Method, Setup
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, DataInfo, Output, Progress

Rows = Sequence[Sequence[float]]


class GivenLogits(Network):
    """Answers every batch with the same float64 logits [N,K]."""

    def __init__(self, logits: Rows) -> None:
        super().__init__()
        self.taps = {}
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))
        self.head = nn.Linear(1, self.logits.shape[1])

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        return Output(self.logits, {})

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        return ()


def _setup(z: Rows, v: Rows | None) -> Setup:
    classes = len(z[0])
    info = DataInfo(
        "given",
        classes,
        len(z),
        (1, 1, 1),
        ("a",) * classes,
        (0.0,),
        (1.0,),
        "given",
        torch.zeros(len(z), dtype=torch.int64),
    )
    teachers = () if v is None else (Teacher(GivenLogits(v)),)
    return Setup(
        GivenLogits(z),
        teachers,
        info,
        build=lambda _: GivenLogits(z),
        load=lambda _: Teacher(GivenLogits(z)),
        gather=lambda x: x,
    )


@pytest.fixture
def given() -> Callable[..., Method]:
    """A method by name, for a student and a teacher with given logits: given("kd", z, v,
    temperature=2).
    """

    def make(name: str, z: Rows, v: Rows | None, **options: Any) -> Method:
        module = catalog.load(catalog.entry("method", name))
        cls = next(
            thing
            for thing in vars(module).values()
            if isinstance(thing, type)
            and issubclass(thing, Method)
            and thing.__module__ == module.__name__
        )
        return cls(cls.Options(**options), _setup(z, v))

    return make


@pytest.fixture
def terms(given: Callable[..., Method]) -> Callable[..., dict[str, float]]:
    """The loss terms of a method by name, at given logits and labels: terms("kd", z, v, y,
    temperature=2).
    """

    def compute(
        name: str, z: Rows, v: Rows | None, y: Sequence[int], *, epoch: int = 1, **options: Any
    ) -> dict[str, float]:
        positions = torch.arange(len(y))
        batch, at = (
            Batch(positions, torch.tensor(y), positions, positions),
            Progress("distill", epoch, 100, epoch - 1, 100),
        )
        return {
            key: value.item()
            for key, value in given(name, z, v, **options).loss(batch, at).losses.items()
        }

    return compute
