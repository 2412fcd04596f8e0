"""A world of networks with given logits, for methods that build networks of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from kdcli.core.method import Method, Setup
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, DataInfo, Progress, Step
from tests.golden.conftest import GivenLogits, Rows


def fixed_setup(
    z: Rows, v: Rows | None, built: Mapping[str, Sequence[Rows]] | None = None
) -> Setup:
    """Student and teacher with given logits; each `build(name)` takes the next rows of that
    name.
    """
    queues = {name: iter(rows) for name, rows in (built or {}).items()}
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

    def build(name: str) -> Network:
        return GivenLogits(next(queues[name]))

    teachers = () if v is None else (Teacher(GivenLogits(v)),)
    return Setup(
        GivenLogits(z),
        teachers,
        info,
        build,
        load=lambda _: Teacher(GivenLogits(z)),
        gather=lambda x: x,
    )


def batch_of(y: Sequence[int]) -> Batch:
    """A batch with labels; what the networks see does not matter."""
    positions = torch.arange(len(y))
    return Batch(positions, torch.tensor(y), positions, positions)


def run_stage(
    method: Method, number: int, y: Sequence[int], *, epoch: int = 1, epochs: int = 1, step: int = 0
) -> Step:
    """The loss of a stage, from 0, with only that stage's modules trainable, as the engine does
    it.
    """
    stage = method.stages()[number]
    method.requires_grad_(False).eval()
    for module in stage.trains:
        module.requires_grad_(True).train()
    at = Progress(stage.name, epoch, epochs, step, 100)
    method.on_epoch(at)
    return stage.loss(batch_of(y), at)


def values(step: Step) -> dict[str, float]:
    """The loss terms as numbers."""
    return {name: term.item() for name, term in step.losses.items()}
