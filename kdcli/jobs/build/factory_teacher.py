"""A teacher that a function in a file builds, and whose weights that function loads itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from kdcli.core.network import parameter_count
from kdcli.core.types import DataInfo, Shown
from kdcli.engine.runtime import Runtime
from kdcli.errors import UsageError
from kdcli.jobs.build import sights
from kdcli.jobs.build.networks import LoadedTeacher, as_teacher, fresh_network
from kdcli.results.preprocessing import Sight
from kdcli.results.run import TeacherSummary

_COLOURS = 3


def factory_teacher(
    name: str,
    weights: str | None,
    info: DataInfo,
    runtime: Runtime,
    asked: Sight,
    view: Shown = "same",
) -> LoadedTeacher:
    """The network of path/to/file.py:factory as a teacher, as the factory returns it.

    It sees the data's pixels, or its own, as far as what the factory returns says of them: its
    `input_size`, `input_mean` and others (kdcli.core.network.Network).

    Args:
        asked: what it is to see in the place of what it says itself. view: of training pictures.

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
    height, width = asked.size or size
    network = fresh_network(
        name, num_classes=info.num_classes, input_shape=(channels, height, width)
    )
    for key, least in (("input_mean", -math.inf), ("input_std", 0.0)):
        _check_statistics(name, key, network, channels, least)
    said = asked.over(sights.of_network(name, network))
    if network.input_mean is not None:
        said = replace(said, channels=len(network.input_mean))
    sees = sights.pixels_for(said, info, name)
    teacher = as_teacher(network, sees, info, runtime, view=view)
    # no checkpoint, so without the sum of one
    summary = TeacherSummary(name, "", name, parameter_count(network), None)
    return LoadedTeacher(teacher, summary, name, {}, faster=runtime.answering(teacher))


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
