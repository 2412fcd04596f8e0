"""What each network sees of a picture: as its checkpoint, its library or its author says, and over
that what the recipe says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdcli import catalog
from kdcli.core.network import SAID_OF_PIXELS, Network
from kdcli.core.types import DataInfo, Sees
from kdcli.errors import BadCheckpoint, Incompatible, UsageError
from kdcli.recipe.schema import BOUNDS, NetworkSection, TeacherSection
from kdcli.recipe.teacher_facts import channels_differ
from kdcli.results.preprocessing import Preprocessing, Sight
from kdcli.results.weights_header import CheckpointHeader
from kdcli.typed import complaint, strict

REPEATED = "grey repeated into three channels"


def of_section(section: TeacherSection | NetworkSection) -> Sight:
    """What a recipe's section says of the pixels of its network."""
    size = None if section.size is None else (section.size, section.size)
    if isinstance(section, NetworkSection):
        return Sight(size=size, resize=section.resize, interpolation=section.interpolation)
    return Sight(
        size=size,
        resize=section.resize,
        interpolation=section.interpolation,
        mean=section.mean,
        std=section.std,
    )


def of_network(name: str, network: Network) -> Sight:
    """What a network says of the pixels that it was trained on (its `input_*`).

    Raises:
        UsageError: one of them is of another type, or out of bounds.
    """
    said = {name: getattr(network, f"input_{name}", None) for name in SAID_OF_PIXELS}
    try:
        return strict(Sight, said)
    except ValueError as error:
        raise UsageError(
            f"{name} says of its pictures what cannot be: input_{error}",
            hint="input_size = (224, 224), input_resize = 256, input_interpolation = 'bicubic', "
            "input_mean and input_std a number a channel: or leave them out",
        ) from error


def of_header(path: Path, header: CheckpointHeader) -> Sight:
    """What a checkpoint says of the pixels that it was trained on. One that was imported says their
    size and statistics alone.

    Raises:
        BadCheckpoint: its header says what no picture can be.
    """
    channels, *size = header.input_shape
    told = Sight(channels, (size[0], size[1]), mean=header.mean, std=header.std)
    if header.preprocessing is None and not header.data:
        return told
    how = preprocessing_of(path, header)
    return told.over(
        Sight(resize=how.resize, interpolation=how.interpolation, resampler=how.resampler)
    )


def preprocessing_of(path: Path, header: CheckpointHeader) -> Preprocessing:
    """How a picture becomes an input of a checkpoint's network: as its header says, or its [data]
    where these were picture files; else brought to the size that the network takes.

    Raises:
        BadCheckpoint: its header says what no picture can be.
    """
    if header.preprocessing is not None:
        return header.preprocessing
    options: Any = None
    data = catalog.entries("dataset").get(str(header.data.get("name")))
    if data is not None and data.facts.get("pictures"):
        kind = catalog.options_class(data)
        known = {
            key: header.data[key]
            for key in kind.model_fields
            if key in header.data and key not in BOUNDS
        }
        try:
            options = kind.model_validate(known)
        except ValidationError as error:
            raise BadCheckpoint(
                f"{path} says of its pictures what cannot be: {complaint(error)}",
                hint="train it again",
            ) from error
    return Preprocessing.of_data(header.input_shape, header.mean, header.std, options)


def pixels_for(told: Sight, info: DataInfo, called: str) -> Preprocessing:
    """The pixels of a network on some data.

    Args:
        told: what is said of them. called: what messages call the network.

    Raises:
        Incompatible: the pictures have other channels, or they are vectors of another length.
    """
    pixels = told.on(info.pixels)
    if problem := channels_differ(pixels.input_shape, info.input_shape):
        raise Incompatible(
            f"{called} takes {problem.format(info.name)}",
            hint=f"a network that takes what {info.name} has",
        )
    for what, values in (("mean", pixels.mean), ("std", pixels.std)):
        if len(values) != pixels.input_shape[0]:
            raise Incompatible(
                f"{called} is to see {pixels.input_shape[0]} channels, and its {what} has "
                f"{len(values)} numbers",
                hint="one number for each channel",
            )
    return pixels


def own_pixels(sees: Sees, info: DataInfo) -> Sees | None:
    """What a network sees, where that is not the data's own pixels, normalised otherwise."""
    alike = sees.pixels.geometry() == info.pixels.geometry()
    return None if alike and sees.view == "same" else sees


def described(pixels: Preprocessing, info: DataInfo) -> str:
    """A network's pixels in a few words."""
    height, width = pixels.size
    size = f"{height}×{width}"
    if isinstance(pixels.resize, tuple):
        whole = pixels.resize == pixels.size
        before = "both sides" if whole else f"of both sides at {pixels.resize[0]}"
    else:
        before = f"of the shorter side at {pixels.resize}"
    grey = f", {REPEATED}" if pixels.input_shape[0] != info.input_shape[0] else ""
    mean, std = (
        ", ".join(f"{value:.3g}" for value in dict.fromkeys(values))
        for values in (pixels.mean, pixels.std)
    )
    return f"{size} {before}, {pixels.interpolation}, mean {mean}, std {std}{grey}"
