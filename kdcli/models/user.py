"""Networks of the user's own: path/to/file.py:factory, where the factory returns any nn.Module that
classifies.

The factory is called with num_classes and input_shape, as far as it takes them. The module must end
in a linear layer: what feeds that layer is the tap "pooled". A factory that returns a
`kdcli.core.network.Network` declares its own taps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdcli.core.network import SAID_OF_PIXELS, Network
from kdcli.core.types import Output
from kdcli.errors import UsageError
from kdcli.models._headed import Headed, head_path
from kdcli.models._meta import evaluating
from kdcli.results.preprocessing import LARGEST_SIDE

_COLOURS = 3


def adapt(
    factory: Callable[..., Any],
    *,
    num_classes: int | None,
    input_shape: tuple[int, int, int],
    source: str,
) -> Network:
    """Calls a user's factory and makes a Network of what it returns.

    Args:
        factory: called as factory(num_classes=..., input_shape=...), or with those of the two that
            it takes; a factory that takes neither by name but one argument gets the number of
            classes.
        num_classes: K; None for a network that has its own, which the factory is not told.
        input_shape: channels, height, width, unless the module says that it sees pictures of
            another size (`input_size`) or in colours (three of `input_mean`).
        source: what messages call it: path/to/file.py:factory.

    Raises:
        UsageError: the factory cannot be called, raises, or returns what cannot be distilled; says
            which and why.
    """
    made = _call(factory, num_classes, input_shape, source)
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"{source} returned {_kind(made)}, not a torch.nn.Module",
            hint="end it with: return network",
        )
    if (own := getattr(made, "input_size", None)) is not None:
        input_shape = (input_shape[0], *_pair(own, source))
    if len(means := getattr(made, "input_mean", None) or ()) == _COLOURS:
        input_shape = (len(means), *input_shape[1:])
    network = made if isinstance(made, Network) else _split(made, num_classes, input_shape, source)
    # as it may say them for when it is a teacher
    for key in ("class_names", *(f"input_{name}" for name in SAID_OF_PIXELS)):
        if getattr(made, key, None) is not None:
            setattr(network, key, getattr(made, key))
    if own is not None:
        network.input_size = input_shape[1:]
    _logits(network, num_classes, input_shape, source)
    return network


def _pair(size: object, source: str) -> tuple[int, int]:
    """Height and width, of what a module says of its pictures."""
    sides: list[Any] = list(size) if isinstance(size, tuple | list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
        raise UsageError(
            f"{source} has an input_size that is not a height and a width: {size}",
            hint="network.input_size = (224, 224)",
        )
    return sides[0], sides[1]


def _call(
    factory: Callable[..., Any],
    num_classes: int | None,
    input_shape: tuple[int, int, int],
    source: str,
) -> Any:
    if not callable(factory):
        raise UsageError(
            f"{source} is {_kind(factory)}, not a function",
            hint="name a function or class that builds the network",
        )
    parameters = inspect.signature(factory).parameters
    offered: dict[str, Any] = {"num_classes": num_classes, "input_shape": input_shape}
    if num_classes is None:
        del offered["num_classes"]
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {key: value for key, value in offered.items() if takes_all or key in parameters}
    needed = [
        parameter for parameter in parameters.values() if parameter.default is parameter.empty
    ]
    positional = () if named or len(needed) != 1 or num_classes is None else (num_classes,)
    try:
        return factory(*positional, **named)
    except Exception as error:
        raise UsageError(
            f"{source} failed: {type(error).__name__}: {error}",
            hint="it is called with num_classes and input_shape",
        ) from error


def _split(
    module: nn.Module, num_classes: int | None, input_shape: tuple[int, int, int], source: str
) -> Network:
    """The module as features and a head, after checking that its head is really the last thing that
    it computes.
    """
    if isinstance(module, nn.Linear):
        module = nn.Sequential(module)  # a head needs something that holds it
    path = head_path(module)
    if path is None:
        raise UsageError(
            f"{source} has no torch.nn.Linear: kd needs one as its last layer",
            hint="end it with nn.Linear(features, num_classes)",
        )
    before = _logits(module, num_classes, input_shape, source)
    network = Headed(source, module, path)
    after = _logits(network, num_classes, input_shape, source)
    if not after.is_meta and not torch.allclose(before, after, rtol=1e-4, atol=1e-5):
        raise UsageError(
            f"{source} does something after its last linear layer, {path}: kd needs the "
            "logits as they are",
            hint="return what that layer gives: no softmax or scaling after it",
        )
    return network


def _logits(
    module: nn.Module, num_classes: int | None, input_shape: tuple[int, int, int], source: str
) -> Tensor:
    """Logits [2,K] of a module for two black pictures, in eval mode; its own mode is put back."""
    try:
        with evaluating(module):
            found = module(torch.zeros(2, *input_shape))
    except Exception as error:
        shape = "x".join(map(str, input_shape))
        raise UsageError(
            f"{source} fails on pictures of {shape}: {type(error).__name__}: {error}"
        ) from error
    logits = found.logits if isinstance(found, Output) else found
    if not isinstance(logits, Tensor):
        raise UsageError(
            f"{source} answers with {_kind(found)}, not with logits",
            hint="its forward must return one tensor [B, num_classes]",
        )
    if num_classes is None and logits.ndim == 2 and len(logits) == 2:
        return logits
    if logits.shape != (2, num_classes):
        raise UsageError(
            f"{source} answers two pictures with a tensor of {list(logits.shape)}, not [2, "
            f"{'classes' if num_classes is None else num_classes}]",
            hint="give its last layer num_classes outputs: the factory is told how many",
        )
    return logits


def _kind(thing: object) -> str:
    return f"a {type(thing).__name__}"
