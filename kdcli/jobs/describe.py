"""What a network costs and where it can be tapped, without computing anything with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kdcli import catalog
from kdcli.jobs.networks import build_network
from kdcli.models.cost import macs, parameter_count

USUAL_SHAPES: Mapping[str, tuple[int, int, int]] = {"torchvision": (3, 224, 224)}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One network at one input size. taps: channels and stride by name; stride None is a vector."""

    name: str
    summary: str
    num_classes: int
    input_shape: tuple[int, int, int]
    parameters: int
    macs: int
    taps: Mapping[str, tuple[int, int | None]]


def describe_model(name: str, num_classes: int = 10, input_shape: tuple[int, int, int] | None = None) -> ModelCard:
    """Parameters, multiply-accumulates of one image, and taps of a network.

    Args:
        input_shape: (C, H, W); the variant's own usual one unless given.

    Raises:
        NotFound: no such network. Incompatible: it cannot take this input.
    """
    found = catalog.entry("model", name)
    shape = input_shape or tuple(found.facts.get("input_shape") or USUAL_SHAPES.get(found.family, (3, 32, 32)))
    with torch.device("meta"):
        network = build_network(name, num_classes=num_classes, input_shape=shape)
    taps = {tap: (place.channels, place.stride) for tap, place in network.taps.items()}
    return ModelCard(name, found.summary, num_classes, shape, parameter_count(network), macs(network, shape), taps)
