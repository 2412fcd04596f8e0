"""Settings of the engine: plain values that a recipe's sections are turned into, so that the engine
knows no recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdcli.core.class_weights import ClassWeights


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """name: "sgd" or "adamw". arguments: keyword arguments of the torch optimiser, learning rate
    and weight decay included.
    """

    name: str
    arguments: Mapping[str, Any]

    @property
    def divides(self) -> bool:
        """Tells whether gradients of labels and of the rest are kept apart."""
        return "dot" in self.arguments


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """name: "cosine" (with floor, and epochs where it is longer than the stage), "multistep" (with
    milestones and gamma) or "constant"; each with warmup_epochs.
    """

    name: str
    warmup_epochs: float = 0.0
    floor: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The length of training and its portions; the meanings are those of the recipe's [train].
    average_after: epochs without progress before weights are averaged; None never does.
    patience: epochs without a better `Hooks.agreement` after which a stage ends; None never does.
    class_weights: None weighs all classes alike. mixes: whether pictures of a minibatch are mixed.
    """

    epochs: int
    seed: int = 0
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    average_after: int | None = None
    patience: int | None = None
    keep_every: int | None = None
    state_seconds: float = 60.0
    class_weights: ClassWeights | None = None
    mixes: bool = False
    optim: OptimSettings = field(
        default_factory=lambda: OptimSettings("sgd", {"lr": 0.05, "momentum": 0.9})
    )
    schedule: ScheduleSettings = field(default_factory=lambda: ScheduleSettings("cosine"))


Precision = Literal["fp32", "bf16", "fp16"]
