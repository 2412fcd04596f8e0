"""A teacher that a function in a file builds, and whose weights that function loads itself."""

from __future__ import annotations

import math
from typing import Any

from kdcli import catalog
from kdcli.core.network import Blueprint, Network, parameter_count
from kdcli.core.types import DataInfo
from kdcli.engine.runtime import Runtime
from kdcli.errors import UsageError
from kdcli.jobs.build import class_maps
from kdcli.jobs.build.networks import LoadedTeacher, as_teacher, fresh_network
from kdcli.models.user import adapt
from kdcli.results.run import TeacherSummary


def factory_teacher(
    name: str,
    weights: str | None,
    info: DataInfo,
    runtime: Runtime,
    classes: class_maps.Given | None = None,
) -> LoadedTeacher:
    """The network of path/to/file.py:factory as a teacher, as the factory returns it.

    Under a class map it has as many classes as its last layer has outputs, called as its
    `class_names` say, or by their numbers.

    It sees pixels normalised as those of the data, or by its own `input_mean` and `input_std`
    (of each channel, of pixels in [0, 1]), where what the factory returns has both.

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
    network = (
        fresh_network(name, num_classes=info.num_classes, input_shape=info.input_shape)
        if classes is None
        else _of_other_classes(name, info)
    )
    through = class_maps.mapped(network, classes, _names(name, network, classes), info)
    mean, std = (
        _statistics(name, key, network, own)
        for key, own in (("input_mean", info.mean), ("input_std", info.std))
    )
    teacher = as_teacher(through.network, (mean, std), info, runtime)
    # no checkpoint, so without the sum of one
    summary = TeacherSummary(name, "", name, parameter_count(network), None)
    return LoadedTeacher(
        teacher,
        summary,
        name,
        {},
        faster=runtime.answering(teacher),
        groups=through.groups,
        understood=through.words,
    )


def _of_other_classes(name: str, info: DataInfo) -> Network:
    """The factory's network, of as many classes as it has."""
    found = catalog.entry("model", name)
    module = catalog.load(found)
    network = adapt(
        getattr(module, str(found.factory)),
        num_classes=None,
        input_shape=info.input_shape,
        source=name,
    )
    network.blueprint = Blueprint(name, {})
    return network


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


def _statistics(name: str, key: str, network: Any, own: tuple[float, ...]) -> tuple[float, ...]:
    """One of the two attributes, or the data's own."""
    given = getattr(network, key, None)
    if given is None:
        return own
    try:
        values = tuple(float(value) for value in given)
    except (TypeError, ValueError):
        values = ()
    least = 0.0 if key == "input_std" else -math.inf
    if len(values) != len(own) or not all(least < value < math.inf for value in values):
        raise UsageError(
            f"{name} has an {key} that is not one number for each of {len(own)} channels: {given}",
            hint=f"network.{key} = (0.5,) * {len(own)}, or leave it out for the data's",
        )
    return values
