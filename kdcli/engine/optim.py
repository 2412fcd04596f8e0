"""Optimisers, and learning rates that are a function of the step alone: nothing to save, nothing to
drift on resume.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from kdcli.engine.separate_momenta import SeparateMomenta
from kdcli.engine.settings import OptimSettings, ScheduleSettings


def make_optimiser(
    parameters: Iterable[nn.Parameter], settings: OptimSettings, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """The torch optimiser that the settings name, over the parameters that need a gradient.

    Args:
        capturable: keep the learning rate on the parameters' device, where steps that were captured
            look it up.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.divides:
        # of the two forms of momentum it has the usual one: a recipe with dot has no nesterov
        plain = {key: value for key, value in settings.arguments.items() if key != "nesterov"}
        return _without_compiler(SeparateMomenta)(trained, **plain)
    kind = _without_compiler(_KINDS[settings.name])  # type: ignore[arg-type]
    optimiser = kind(trained, fused=True, **settings.arguments)
    for group in optimiser.param_groups if capturable else ():
        group["lr"] = torch.tensor(float(group["lr"]), device=trained[0].device)
        # torch asks for it on a GPU; fused steps are alike with and without
        if "capturable" in group:
            group["capturable"] = trained[0].device.type == "cuda"
    return optimiser


Optimiser = Callable[..., torch.optim.Optimizer]
_KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
}


@functools.cache
def _without_compiler(kind: Callable[..., torch.optim.Optimizer]) -> Optimiser:
    """The optimiser with its own methods, out of the wrappers that torch puts around them to keep
    torch.compile out: the first call of each imports the compiler, which takes longer than a short
    training, and nothing here compiles an optimiser.

    The wrappers are found as functools.wraps leaves them. Of one that is not, nothing is taken off:
    the optimiser works, and imports what it always did.
    """
    names = ("add_param_group", "state_dict", "load_state_dict", "zero_grad", "step")
    own = {each: inspect.unwrap(getattr(kind, each)) for each in names}
    # what else the wrapper of `step` does
    own["step"] = torch.no_grad()(own["step"])
    return type(kind.__name__, (kind,), own)  # type: ignore[arg-type]


def learning_rate(
    base: float, schedule: ScheduleSettings, *, step: int, steps_per_epoch: int, steps: int
) -> float:
    """The learning rate of a step.

    Args:
        base: the rate that the schedule scales.
        step: optimiser steps already taken in this stage, from 0.
        steps_per_epoch: optimiser steps an epoch.
        steps: of the whole stage.
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    return base * _factor(schedule, step, warmup, steps_per_epoch, steps)


def _factor(
    schedule: ScheduleSettings, step: int, warmup: float, steps_per_epoch: int, steps: int
) -> float:
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "multistep":
        # a milestone counts whole epochs done: RepDistiller's "epoch > milestone" with epochs from
        # 1
        epochs_done = step // steps_per_epoch
        return schedule.gamma ** sum(epochs_done >= milestone for milestone in schedule.milestones)
    length = steps if schedule.epochs is None else schedule.epochs * steps_per_epoch
    done = (step - warmup) / max(length - warmup, 1)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the rate."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
