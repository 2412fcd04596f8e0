"""A teacher that a function in a file builds, and whose weights that function loads itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from kdcli.core.network import Network, parameter_count
from kdcli.core.types import DataInfo
from kdcli.engine.runtime import Runtime
from kdcli.errors import UsageError
from kdcli.jobs.build import class_maps, sights
from kdcli.jobs.build.networks import fresh_network
from kdcli.jobs.build.teachers import (
    Asked,
    LoadedTeacher,
    as_teacher,
    digest_if_sharded,
)
from kdcli.results.run import TeacherSummary

_COLOURS = 3


def factory_teacher(
    name: str,
    weights: str | None,
    info: DataInfo,
    runtime: Runtime,
    asked: Asked,
) -> LoadedTeacher:
    """The network of path/to/file.py:factory as a teacher, as the factory returns it.

    Under a class map it has as many classes as its last layer has outputs, called as its
    `class_names` say, or by their numbers.

    It sees the data's pixels, or its own, as far as what the factory returns says of them: its
    `input_size`, `input_mean` and others (kdcli.core.network.Network).

    Args:
        asked: its sight in the place of what it says itself.

    Raises:
        UsageError: the factory fails or returns no classifier of the data's classes; `weights` is
            given, which nobody would load; its statistics are no numbers of its channels.
        Untrusted: the file is a stranger's.
    """
    if weights is not None:
        raise UsageError(
            f"teacher {name} loads its weights itself: teacher.weights would change nothing",
            hint=f"leave it out, or: kd import {weights} --model {name}; then -t with that",
        )
    channels, *size = info.input_shape
    height, width = asked.sight.size or size
    network = fresh_network(
        name,
        num_classes=info.num_classes if asked.classes is None else None,
        input_shape=(channels, height, width),
    )
    for key, least in (("input_mean", -math.inf), ("input_std", 0.0)):
        _check_statistics(name, key, network, channels, least)
    said = asked.sight.over(sights.of_network(name, network))
    if network.input_mean is not None:
        said = replace(said, channels=len(network.input_mean))
    sees = sights.pixels_for(said, info, name)
    through = class_maps.mapped(network, asked.classes, _names(name, network, asked.classes), info)
    teacher = as_teacher(through.network, sees, info, runtime, view=asked.view)
    # no checkpoint, so without the sum of one
    summary = TeacherSummary(name, "", name, parameter_count(network), None)
    weights_sum = digest_if_sharded(through.network, runtime)
    return LoadedTeacher(
        teacher,
        summary,
        name,
        {},
        faster=runtime.answering(teacher),
        groups=through.groups,
        understood=through.words,
        weights=weights_sum,
    )


def _names(name: str, network: Network, classes: class_maps.Given | None) -> tuple[str, ...]:
    """What the network's classes are called."""
    if classes is None:
        return ()
    count = network.head.out_features
    given: Any = getattr(network, "class_names", None)
    if given is None:
        return tuple(map(str, range(count)))
    names = tuple(given) if isinstance(given, list | tuple) else ()
    if len(names) != count or not all(isinstance(each, str) for each in names):
        raise UsageError(
            f"{name} has class_names that are not one name for each of its {count} classes",
            hint="network.class_names = [...], in the order of its outputs",
        )
    return names


def _check_statistics(name: str, key: str, network: Any, channels: int, least: float) -> None:
    """Refuses one of the two attributes that is no number a channel: of the pictures, or of three
    where grey is repeated.
    """
    given = getattr(network, key, None)
    if given is None:
        return
    try:
        values = tuple(float(value) for value in given)
    except (TypeError, ValueError):
        values = ()
    if len(values) not in {channels, _COLOURS} or not all(
        least < value < math.inf for value in values
    ):
        raise UsageError(
            f"{name} has an {key} that is not one number for each of {channels} channels: {given}",
            hint=f"network.{key} = (0.5,) * {channels}, or leave it out for the data's",
        )
    setattr(network, key, values)
