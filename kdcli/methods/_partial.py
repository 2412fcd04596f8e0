"""The base of the partial methods: the loss of a synthetic target, and the targets that depend on
the label alone, as tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kdcli import losses
from kdcli.core.classes import number_of, shown
from kdcli.core.teacher import Teacher
from kdcli.core.types import DataInfo, Step
from kdcli.errors import Incompatible


class Weighed(Protocol):
    """Options that every partial method has."""

    @property
    def weight(self) -> float: ...

    @property
    def temperature(self) -> float: ...


def step(z: Tensor, y: Tensor, rho: Tensor, options: Weighed) -> Step:
    """L = (1 - w) CE(z, y) + w tau^2 mean_i KL(rho_i || softmax(z_i / tau)), for student logits z
    and a target rho, both [N,K].
    """
    ce = (1 - options.weight) * losses.cross_entropy(z, y)
    soft = options.weight * losses.divergence(z, rho, temperature=options.temperature)
    return Step({"ce": ce, "kd": soft}, z)


class Alike(Protocol):
    """Options of the target from the teacher's last layer."""

    @property
    def sim_temperature(self) -> float: ...

    @property
    def power(self) -> float: ...


def similarity_table(teacher: Teacher, options: Alike) -> Tensor:
    """The target [K,K] of each label, from the weights of the teacher's last layer."""
    weight = teacher.network.head.weight
    labels = torch.arange(weight.shape[0], device=weight.device)
    return losses.kd_sim(weight, labels, temperature=options.sim_temperature, power=options.power)


class Related(Protocol):
    """Options of the target from superclasses."""

    @property
    def label_probability(self) -> float: ...

    @property
    def ratio(self) -> float: ...

    @property
    def superclasses(self) -> tuple[tuple[str | int, ...], ...] | None: ...


def relation_table(method: str, data: DataInfo, options: Related) -> Tensor:
    """The target [K,K] of each label, from the superclasses that the options or the data give.

    Raises:
        Incompatible: there are none, they do not hold each class once, or a sibling would get as
            much as the label.
    """
    superclass = superclass_of(method, data, options.superclasses)
    labels = torch.arange(data.num_classes)
    table = losses.kd_rel(
        labels, superclass, label_probability=options.label_probability, ratio=options.ratio
    )
    most = table.masked_fill(torch.eye(data.num_classes, dtype=torch.bool), 0).amax().item()
    if most >= options.label_probability:
        raise Incompatible(
            f"{method}: with label_probability {options.label_probability} and ratio "
            f"{options.ratio} another class of {data.name} "
            f"gets {most:.3g}, as much as the label or more",
            hint="raise method.label_probability or lower method.ratio",
        )
    return table


def superclass_of(
    method: str, data: DataInfo, given: Sequence[Sequence[str | int]] | None
) -> Tensor:
    """The superclass [K] of each class.

    Raises:
        Incompatible: there are none, or they do not hold each class once. UsageError: no class has
            a name or number in them.
    """
    if given is None:
        if data.superclass is None:
            raise Incompatible(
                f"{method} needs superclasses, and {data.name} has none",
                hint=(
                    "method.superclasses = [[0, 1], [2, 3, 4]], lists of class names or numbers; "
                    "or kd_sim, which asks the teacher"
                ),
            )
        return data.superclass.cpu()
    names = data.class_names
    groups = [[number_of(item, names, "method.superclasses") for item in group] for group in given]
    count = Counter(number for group in groups for number in group)
    wrong = [
        *(
            f"{shown(number, names)} is there {times} times"
            for number, times in sorted(count.items())
            if times > 1
        ),
        *(
            f"{shown(number, names)} is missing"
            for number in range(data.num_classes)
            if number not in count
        ),
    ]
    if wrong:
        raise Incompatible(
            f"{method}: superclasses must hold each class of {data.name} once, 0 to "
            f"{data.num_classes - 1}: {wrong[0]}"
        )
    place = {number: position for position, group in enumerate(groups) for number in group}
    return torch.tensor([place[number] for number in range(data.num_classes)])
