"""Names become networks here: fresh ones from the zoo or a user's file, and trained ones from a
checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from kdcli import catalog, trust
from kdcli.core import random
from kdcli.core.network import Blueprint, Network
from kdcli.core.types import Tap
from kdcli.engine.checkpoint import load_weights, lost_token, verified
from kdcli.errors import BadCheckpoint, Incompatible, KdError, UsageError
from kdcli.files import DAMAGED_WEIGHTS, given_by_the_user, safetensors_header
from kdcli.models._tapped import tapped
from kdcli.modules.composite import ARCHITECTURE as COMPOSITE
from kdcli.modules.composite import Composite
from kdcli.modules.reused_head import ARCHITECTURE as REUSED_HEAD
from kdcli.modules.reused_head import Projector, ReusedHead, behead
from kdcli.results.weights_header import CheckpointHeader, read_header

# what the zoo does not list: networks that a method makes of others
_MADE_OF_OTHERS = frozenset({COMPOSITE, REUSED_HEAD})


def network_arguments(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Constructor arguments of a network: its variant's own, and over them the options that were
    given.
    """
    found = catalog.entry("model", name)
    given = {key: value for key, value in (options or {}).items() if value is not None}
    return {**found.facts.get("arguments", {}), **given}


def build_network(
    name: str,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    copy: int = 0,
    vocabulary: int | None = None,
) -> Network:
    """Fresh weights of a network by name.

    Args:
        name: what `kd models` lists, torchvision/NAME, or path/to/file.py:factory.
        num_classes: K. input_shape: (C, H, W).
        options: of the network's family, such as an MLP's hidden widths.
        seed, copy: the weights are a function of both; another copy is independent.
        vocabulary: tokens, of a network that sorts texts into classes.

    Raises:
        NotFound: no such network. Incompatible: it cannot take this input. UsageError: an unknown
            option.
    """
    with trust.trusting([name]):
        return fresh_network(
            name,
            num_classes=num_classes,
            input_shape=input_shape,
            options=options,
            seed=seed,
            copy=copy,
            vocabulary=vocabulary,
        )


def fresh_network(
    name: str,
    *,
    num_classes: int | None,
    input_shape: tuple[int, int, int],
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    copy: int = 0,
    vocabulary: int | None = None,
) -> Network:
    """`build_network` for a name that a recipe or a checkpoint gives: a file runs if it is trusted.

    Args:
        num_classes: None for a factory's network that has its own.

    Raises:
        Untrusted: it is not. Others: as `build_network`.
    """
    arguments = dict(options or {}) if name in _MADE_OF_OTHERS else network_arguments(name, options)
    if vocabulary is not None and "vocabulary" in arguments:
        arguments["vocabulary"] = vocabulary
    with random.seeded(seed, "init", copy):
        network = _construct(name, num_classes, input_shape, arguments)
    if network.new_head:
        # whatever its body drew before the pretrained weights took the place of that
        with random.seeded(seed, "head", copy):
            network.head.reset_parameters()
    return network


def _construct(
    name: str,
    num_classes: int | None,
    input_shape: tuple[int, int, int],
    arguments: Mapping[str, Any],
) -> Network:
    if name == COMPOSITE:
        return _construct_composite(num_classes, input_shape, **arguments)
    if name == REUSED_HEAD:
        return _construct_reused_head(num_classes, input_shape, **arguments)
    own = {key: value for key, value in arguments.items() if key != "taps"}
    network = _construct_one(name, num_classes, input_shape, own)
    if taps := arguments.get("taps"):
        network = tapped(network, taps, input_shape)
    # a network may bring more that it is built of, such as the content of a file
    known = {} if network.blueprint is None else network.blueprint.arguments
    network.blueprint = Blueprint(name, {**arguments, **known})
    return network


def _construct_composite(
    num_classes: int | None,
    input_shape: tuple[int, int, int],
    *,
    combine: Any,
    members: Sequence[Any],
) -> Network:
    parts = [(member["architecture"], _weightless(member["arguments"])) for member in members]
    return Composite(
        [_construct(name, num_classes, input_shape, arguments) for name, arguments in parts],
        combine,
    )


def _construct_reused_head(
    num_classes: int | None,
    input_shape: tuple[int, int, int],
    *,
    body: Mapping[str, Any],
    tap: str,
    inner: int,
    features: int,
    stride: int | None,
    bias: bool,
) -> Network:
    network = _construct(
        body["architecture"], num_classes, input_shape, _weightless(body["arguments"])
    )
    head = torch.nn.Linear(features, network.head.out_features, bias=bias)
    behead(network)
    projector = Projector(network.taps[tap], Tap(features, stride), inner)
    return ReusedHead(network, tap, projector, head)


def _weightless(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without `weights`: a checkpoint brings its own, torchvision's must not be fetched
    for it.
    """
    return {key: value for key, value in arguments.items() if key != "weights"}


def _construct_one(
    name: str,
    num_classes: int | None,
    input_shape: tuple[int, int, int],
    arguments: Mapping[str, Any],
) -> Network:
    found = catalog.entry("model", name)
    module = catalog.load(found)
    if found.factory is not None:
        from kdcli.models.user import adapt

        adapted: Network = adapt(
            getattr(module, found.factory),
            num_classes=num_classes,
            input_shape=input_shape,
            source=name,
        )
        return adapted
    known = (
        catalog.options_class(found).model_fields.keys() | found.facts.get("arguments", {}).keys()
    )
    if unknown := sorted(arguments.keys() - known):
        raise UsageError(
            f"{name} has no option {unknown[0]!r}", hint=f"kd models {name} lists them"
        )
    network: Network = module.build(
        name, num_classes=num_classes, input_shape=input_shape, arguments=arguments
    )
    return network


def load_network(path: str | Path) -> tuple[Network, CheckpointHeader, Path]:
    """The network of a checkpoint, its header and its file.

    Raises:
        NotFound: nothing there. BadCheckpoint: damaged or not ours. Incompatible: the zoo's network
            has changed since. Untrusted: its header names a file that the user has not.
    """
    found, header = checked_header(path)
    check_outline(found, header)
    # the weights are overwritten; the global generator must not notice
    with random.seeded(0, "init"), trust.named_by(f"the header of {found}"):
        network = _construct(
            header.architecture,
            header.num_classes,
            header.input_shape,
            _weightless(header.arguments),
        )
    with given_by_the_user():
        load_weights(found, network)
    return network, header, found


def checked_header(path: str | Path) -> tuple[Path, CheckpointHeader]:
    """The file and the header of a checkpoint. The weights of one that names Python files are
    compared with their checksum: nothing that a damaged file asks for is run.

    Raises:
        NotFound: nothing there. BadCheckpoint: damaged or not ours.
    """
    found, header = read_header(path)
    if trust.files_in([header.architecture, header.arguments, header.data, header.method]):
        with given_by_the_user():
            verified(found)
    return found, header


def check_outline(path: Path, header: CheckpointHeader) -> None:
    """Refuses a checkpoint whose tensors are not those of the network that its header describes,
    before memory is asked for: the network is built without values.

    Left out where a file of the user's builds it, or a part of it: that may need values.

    Raises:
        BadCheckpoint: it describes no network, or another one. NotFound, UsageError: its name or an
            option is unknown.
    """
    _, actual = safetensors_header(path)
    try:
        if _builds_itself(header.architecture, header.arguments):
            return
        with torch.device("meta"), _at_most(2 * len(actual) + _SPARE):
            expected = {
                name: tuple(tensor.shape)
                for name, tensor in _construct(
                    header.architecture,
                    header.num_classes,
                    header.input_shape,
                    _weightless(header.arguments),
                )
                .state_dict()
                .items()
            }
    except KdError:
        raise
    except Exception as error:  # whatever a constructor says to arguments of a wrong type or size
        first_line, _, _ = str(error).partition("\n")
        raise BadCheckpoint(
            f"{path} has a damaged kd header: {header.architecture[:60]} cannot be built from its "
            f"arguments ({type(error).__name__}: {first_line[:120]})",
            hint=DAMAGED_WEIGHTS,
        ) from error
    if differing := sorted(
        name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)
    ):
        raise Incompatible(
            f"{path} does not fit {header.architecture}: {len(differing)} tensors differ, "
            f"first {differing[0][:60]}{lost_token(expected, actual)}",
            hint="load it with the version of kd that wrote it, or train again",
        )


_SPARE = 64  # parameters that a constructor makes and puts others in the place of, such as a head


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Within it no more parameters are made than that.

    Raises:
        ValueError: more were.
    """
    made = itertools.count(1)

    def note(*_: object) -> None:
        if next(made) > count:
            raise ValueError("more layers than the file has tensors for")

    handle = register_module_parameter_registration_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _builds_itself(name: str, arguments: Mapping[str, Any]) -> bool:
    """Tells whether a function in a file builds the network, or a member of it."""
    if name == COMPOSITE:
        return any(
            _builds_itself(member["architecture"], member["arguments"])
            for member in arguments["members"]
        )
    if name == REUSED_HEAD:
        return _builds_itself(arguments["body"]["architecture"], arguments["body"]["arguments"])
    return catalog.entry("model", name).factory is not None


def check_sees(name: str, network: Network, shape: tuple[int, int, int]) -> None:
    """Refuses a factory's network that says it takes other pictures than it will see.

    Raises:
        Incompatible: their size or their channels differ.
    """
    if catalog.entry("model", name).factory is None:
        return
    size, means = network.input_size, network.input_mean
    if size is not None and size != shape[1:]:
        raise Incompatible(
            f"{name} takes pictures of {size[0]}x{size[1]} by its input_size, and these are of "
            f"{shape[1]}x{shape[2]}",
            hint=f"student.size = {size[0]} (model.size of kd train-teacher)",
        )
    if means is not None and len(means) != shape[0]:
        raise Incompatible(
            f"{name} takes pictures with {len(means)} channels by its input_mean, and these have "
            f"{shape[0]}",
            hint="a network that takes any number of channels",
        )
