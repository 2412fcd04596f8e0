"""Methods of the catalogue under the real trainer, on a feed of twenty images of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from kdcli.core import random
from kdcli.core.method import Method, Setup, Stage
from kdcli.core.types import Batch, DataInfo, Draw
from kdcli.engine.checkpoint import State
from kdcli.engine.cuda_graphs import Recorder
from kdcli.engine.runtime import Runtime
from kdcli.engine.settings import OptimSettings, TrainSettings
from kdcli.engine.trainer import Hooks, Trainer

SETTINGS = TrainSettings(
    epochs=2, optim=OptimSettings("sgd", {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4})
)

MakeSetup = Callable[[type[Method]], Setup]


@dataclass
class NoiseFeed:
    """Two minibatches of eight an epoch, and one of four."""

    info: DataInfo
    batch_size: int = 8
    x: Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.info.num_train, *self.info.input_shape)
        self.x = (
            2
            * random.uniform(random.key(0, "noise"), torch.arange(torch.Size(shape).numel())).view(
                shape
            )
            - 1
        )

    @property
    def train_batches(self) -> int:
        return -(-self.info.num_train // self.batch_size)

    @property
    def resident(self) -> bool:
        return True

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return (self.view(draw.index, draw.view) for draw in self.draws(epoch, start))

    def draws(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        order = random.permutation(random.key(0, "order", epoch), self.info.num_train)
        for first in range(start * self.batch_size, self.info.num_train, self.batch_size):
            index = order[first : first + self.batch_size]
            yield Draw(index, torch.zeros_like(index))

    def split(self, name: str) -> Iterator[Batch]:
        index = torch.arange(self.info.num_train)
        yield self.view(index, torch.zeros_like(index))

    def size(self, name: str) -> int:
        return 0 if name == "val" else self.info.num_train

    def view(self, index: Tensor, view: Tensor) -> Batch:
        return Batch(self.x[index], self.info.targets[index], index, view)


def shortened(stages: list[Stage]) -> list[Stage]:
    """The stages with a single epoch each, those that take the recipe's length with two."""
    return [stage if stage.epochs is None else replace(stage, epochs=1) for stage in stages]


def make_trainer(
    cls: type[Method],
    make_setup: MakeSetup,
    *,
    hooks: Hooks | None = None,
    folder: Path | None = None,
    resume: State | None = None,
    recorder: Recorder | None = None,
    batch_size: int = 8,
    epochs: int = 2,
    dot: float | None = None,
) -> Trainer:
    """A trainer for a fresh copy of a method with its default options."""
    setup = make_setup(cls)
    with random.seeded(setup.seed, "method"):
        method = cls(cls.Options(), setup)
    runtime = Runtime("cpu", precision="fp32")
    runtime.recorder = recorder
    feed = NoiseFeed(setup.data, batch_size)
    settings = replace(SETTINGS, epochs=epochs)
    if dot is not None:
        arguments = {**SETTINGS.optim.arguments, "dot": dot}
        settings = replace(settings, optim=OptimSettings("sgd", arguments))
    trainer = Trainer(
        method, feed, runtime, settings, hooks=hooks, state_folder=folder, resume=resume
    )
    trainer.stages = shortened(trainer.stages)
    return trainer
