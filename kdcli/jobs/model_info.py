"""Facts about a network without running it: its cost, its taps, and the students that a teacher
could teach.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcli import catalog
from kdcli.core.network import Network, parameter_count
from kdcli.errors import Incompatible, NotFound, UsageError
from kdcli.jobs.build.networks import check_outline, checked_header, fresh_network
from kdcli.models._tapped import modules
from kdcli.models.cost import macs
from kdcli.recipe.resolve import teacher_recipe
from kdcli.recipe.schema import Recipe, TeacherSection
from kdcli.trust import named_by, trusting

USUAL_SHAPES: Mapping[str, tuple[int, int, int]] = {"torchvision": (3, 224, 224)}
_FOLDERS = "hf"  # networks of folders, which say what they are for
WORTH_IT = 1.5  # a student is worth having that costs so many times less than its teacher

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One network at one input size. taps: channels and stride by name; stride None is a vector."""

    name: str
    summary: str
    num_classes: int
    input_shape: Shape
    parameters: int
    macs: int
    taps: Mapping[str, tuple[int, int | None]]


@dataclass(frozen=True, slots=True)
class ModuleCard:
    """A module that can be a tap. kind: map, channels last, tokens or vector. size: height and
    width of the map that it is laid out as; None for a vector.
    """

    path: str
    type: str
    kind: str
    channels: int
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A network that a teacher could teach. Ratios: the teacher's number divided by this
    network's.
    """

    card: ModelCard
    parameters_ratio: float
    macs_ratio: float

    @property
    def worth_it(self) -> bool:
        """Clearly smaller or clearly faster than the teacher, and not slower."""
        return self.macs_ratio >= 1 and max(self.parameters_ratio, self.macs_ratio) >= WORTH_IT


def describe_model(
    name: str,
    num_classes: int = 10,
    input_shape: Shape | None = None,
    options: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Parameters, multiply-accumulates of one image, and taps of a network.

    Args:
        input_shape: (C, H, W); the variant's own usual one unless given.
        options: of the network's family.

    Raises:
        NotFound: no such network. Incompatible: it cannot take this input.
    """
    found = catalog.entry("model", name)
    shape = input_shape or usual_shape(found)
    with trusting([name]):
        network = _weightless(name, num_classes, shape, options)
    return _card(name, found.summary, shape, network)


def describe_modules(
    name: str, num_classes: int = 10, input_shape: Shape | None = None
) -> tuple[ModuleCard, ...]:
    """The modules of somebody's network that can be taps, in their order.

    Raises:
        NotFound: no such network. Incompatible: it cannot take this input, or declares its taps
            itself.
    """
    shape = input_shape or usual_shape(catalog.entry("model", name))
    with trusting([name]):
        network = _weightless(name, num_classes, shape)
    return tuple(
        ModuleCard(
            path,
            type(module).__name__,
            layout.kind,
            layout.channels,
            (layout.height, layout.width) if layout.height else None,
        )
        for path, (module, layout) in modules(network, shape).items()
    )


def _weightless(
    name: str, num_classes: int, shape: Shape, options: Mapping[str, Any] | None = None
) -> Network:
    with torch.device("meta"):
        return fresh_network(name, num_classes=num_classes, input_shape=shape, options=options)


def _card(name: str, summary: str, shape: Shape, network: Network) -> ModelCard:
    taps = {tap: (place.channels, place.stride) for tap, place in network.taps.items()}
    return ModelCard(
        name,
        summary,
        network.head.out_features,
        shape,
        parameter_count(network),
        macs(network, shape),
        taps,
    )


def usual_shape(found: catalog.Entry) -> Shape:
    """The pictures that a network is for, (C, H, W).

    Raises:
        NotFound, BadCheckpoint, Incompatible: it is a folder's, and that cannot be read.
    """
    if found.family == _FOLDERS and not found.name.endswith("/*"):
        shape: Shape = catalog.load(found).usual_shape(found.name)
        return shape
    channels, height, width = found.facts.get("input_shape") or USUAL_SHAPES.get(
        found.family, (3, 32, 32)
    )
    return channels, height, width


def usual_classes(name: str) -> int | None:
    """The number of classes of a network that says them; None of others.

    Raises:
        NotFound, BadCheckpoint, Incompatible: it is a folder's, and that cannot be read.
    """
    found = catalog.entry("model", name)
    if found.family != _FOLDERS:
        return None
    module = catalog.load(found)
    return len(module.categories(name, module.OWN_WEIGHTS))


def download_model(name: str, weights: str | None = None) -> Path:
    """Fetches a network of somebody's hub into the cache of its library.

    Args:
        weights: which of those that are published; the library's default unless given.

    Raises:
        UsageError: it is none of a hub, or its package is not installed. NotFound: there is no such
            network, or no way to it.
    """
    module = catalog.load(catalog.entry("model", name))
    if not hasattr(module, "download"):
        raise UsageError(
            f"{name} is not fetched: kd has it, or its library does when weights are asked for",
            hint="kd models hf/ORG/NAME --download",
        )
    folder: Path = module.download(name, weights)
    return folder


def _asked_for(recipe: Recipe) -> Iterator[tuple[str, str | None]]:
    """The networks that a recipe names, and the weights that they are to have; then those of its
    teachers' recipes, and of what its gap is measured to.
    """
    for key in ("model", "student"):
        if (section := getattr(recipe, key, None)) is not None:
            yield section.name, section.options.get("weights")
    reference = recipe.report.reference
    named = [TeacherSection(recipe=reference)] if (reference or "").endswith(".toml") else []
    for teacher in (*getattr(recipe, "teacher", ()), *named):
        if teacher.name is not None:
            yield teacher.name, teacher.weights
        elif teacher.recipe is not None:
            yield from _asked_for(teacher_recipe(teacher, recipe)[0].recipe)


def missing_weights(recipe: Recipe) -> tuple[tuple[str, str | None], ...]:
    """The networks of a recipe, and of the recipes that it names, that are to be fetched before it
    can run: name and weights of each.

    Raises:
        UsageError, NotFound: a package is missing that knows, or there is no such network.
    """
    found = []
    for name, weights in dict.fromkeys(_asked_for(recipe)):
        entry = catalog.entry("model", name)
        if entry.factory is None and "/" in name:
            module = catalog.load(entry)
            if hasattr(module, "is_here") and not module.is_here(name, weights):
                found.append((name, weights))
    return tuple(found)


def model_members(adapter: str) -> dict[str, str]:
    """The networks that an adapter such as "torchvision/*" stands for, by name, with a line on
    each.
    """
    found: dict[str, str] = catalog.load(catalog.entry("model", adapter)).members()
    return found


def propose_students(
    teacher: str,
    among: Iterable[str] | None = None,
    num_classes: int | None = None,
    input_shape: Shape | None = None,
    *,
    trust: bool = False,
) -> tuple[ModelCard, tuple[Proposal, ...]]:
    """The teacher, and the networks with fewer parameters: the largest that are worth having first,
    then those that are not.

    Args:
        teacher: a network's name, a run directory or a model.safetensors.
        among: names to choose from; unless given, the zoo's networks that are not for pictures of
            another size, and for a network of an adapter its known smaller siblings too.
        num_classes, input_shape: what to compare for; unless given, a checkpoint's own, else 10
            classes and the teacher's usual pictures.
        trust: whether Python files run that a checkpoint names.

    Raises:
        NotFound: no such teacher. BadCheckpoint: its file is damaged. Incompatible: it cannot take
            this input.
    """
    names = None if among is None else tuple(among)
    with trusting([teacher, *(names or ())], everything=trust):
        known = _teacher_card(teacher, num_classes, input_shape)
        cards = [_smaller(name, known) for name in (names or _candidates(known))]
    proposals = [
        Proposal(card, known.parameters / card.parameters, known.macs / max(card.macs, 1))
        for card in cards
        if card is not None
    ]
    return known, tuple(
        sorted(
            proposals, key=lambda each: (not each.worth_it, -each.card.parameters, each.card.name)
        )
    )


def _teacher_card(teacher: str, num_classes: int | None, input_shape: Shape | None) -> ModelCard:
    try:
        catalog.entry("model", teacher)
    except NotFound:
        if "/" not in teacher and not Path(teacher).exists():
            raise  # its hint names the nearest network
    else:
        return describe_model(teacher, num_classes or 10, input_shape)
    path, header = checked_header(teacher)
    check_outline(path, header)
    # they cost the same and would be fetched
    options = {key: value for key, value in header.arguments.items() if key != "weights"}
    shape = input_shape or header.input_shape
    with named_by(f"the header of {path}"):
        network = _weightless(
            header.architecture, num_classes or header.num_classes, shape, options
        )
    # which may be a composite: that has no entry in the catalogue
    return _card(header.architecture, "", shape, network)


def _candidates(teacher: ModelCard) -> list[str]:
    names = []
    for name, found in catalog.entries("model").items():
        if name.endswith("/*"):
            if teacher.name.startswith(name[:-1]):
                names += sorted(set(found.facts.get("smaller", {}).values()))
        elif "input_shape" not in found.facts or usual_shape(found)[1:] == teacher.input_shape[1:]:
            names.append(name)
    return names


def _smaller(name: str, teacher: ModelCard) -> ModelCard | None:
    """A network beside its teacher, or None where it is as large or cannot take the teacher's
    pictures.
    """
    try:
        network = _weightless(name, teacher.num_classes, teacher.input_shape)
    except Incompatible:
        return None
    if not 0 < parameter_count(network) < teacher.parameters:
        return None
    return _card(name, catalog.entry("model", name).summary, teacher.input_shape, network)
