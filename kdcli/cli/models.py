"""`kd models`: the networks. The list comes from the files and is there at once; sizes are computed when they are asked for."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli.cli import completion
from kdcli.cli.env import Environment
from kdcli.cli.envelope import Outcome
from kdcli.cli.explain import OptionItem, option_lines, options_of
from kdcli.cli.text import columns, wrap
from kdcli.errors import KdError, NotFound, UsageError
from kdcli.report import words

if TYPE_CHECKING:
    from kdcli.catalog import Entry

NAME = "models"
EXAMPLES = """
kd models
kd models 'resnet*' -d cifar100
kd models cnn-small -d digits
"""


@dataclass(frozen=True, slots=True)
class ModelItem:
    """A network in the list. parameters: for the data given, None where it was not built."""

    name: str
    family: str
    summary: str
    parameters: int | None = None


@dataclass(frozen=True, slots=True)
class TapItem:
    """A place inside a network that methods can read. stride: None for a vector."""

    name: str
    channels: int
    stride: int | None


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """A network in full, built for one kind of data. macs: multiply-accumulate operations an image."""

    name: str
    family: str
    summary: str
    doc: str
    num_classes: int
    input_shape: tuple[int, int, int]
    parameters: int
    macs: int
    smaller: str | None
    taps: tuple[TapItem, ...]
    options: tuple[OptionItem, ...]


Pattern = Annotated[
    str | None,
    typer.Argument(
        metavar="PATTERN", help="A name, or a wildcard such as 'resnet*' (quoted).", show_default=False, autocompletion=completion.models
    ),
]
For = Annotated[
    str | None,
    typer.Option(
        "-d",
        "--data",
        help="Sizes for this dataset's images and classes; else each network's usual images, and 10 classes.",
        metavar="NAME",
        show_default=False,
        autocompletion=completion.datasets,
    ),
]


@dataclass(frozen=True, slots=True)
class _Size:
    """What networks are built for. shape: None for each network's usual one."""

    classes: int = 10
    shape: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.classes} classes" + (f", {_times(self.shape)}" if self.shape else "")


def run(env: Environment, pattern: Pattern = None, data: For = None) -> Outcome:
    """The networks: all, those that match, or one in full."""
    from kdcli import catalog

    size = _size_of(data) if data is not None else _Size()
    if pattern is None:
        return _list(env, tuple(catalog.entries("model").values()), size if data is not None else None)
    if not any(sign in pattern for sign in "*?["):
        return _show(env, catalog.entry("model", pattern), size)
    found = tuple(entry for name, entry in catalog.entries("model").items() if fnmatch.fnmatchcase(name, pattern))
    if not found:
        raise NotFound(f"no network matches {pattern!r}", hint="kd models lists all of them")
    return _list(env, found, size)


def _size_of(data: str) -> _Size:
    from kdcli import catalog

    facts = catalog.entry("dataset", data).facts
    classes, shape = facts.get("classes"), facts.get("shape")
    if not classes or not shape:
        raise UsageError(f"{data} has no image size or classes of its own", hint="-d cifar100, or another dataset of fixed size")
    channels, height, width = shape
    return _Size(classes, (channels, height, width))


def _list(env: Environment, found: tuple[Entry, ...], size: _Size | None) -> Outcome:
    """The list; with sizes where they were asked for, because that takes torch."""
    items = tuple(ModelItem(entry.name, entry.family, entry.summary, _parameters(entry, size) if size else None) for entry in found)
    heads = [item.family if place == 0 or items[place - 1].family != item.family else "" for place, item in enumerate(items)]
    sizes = [(words.count(item.parameters) if item.parameters else "",) if size else () for item in items]
    rows = [(head, item.name, *count, item.summary) for head, item, count in zip(heads, items, sizes, strict=True)]
    about = f" · parameters for {size}" if size else ""
    env.write_rows(columns(rows, "<<>" if size else ""), f"  {len(items)} networks{about} · kd models NAME for one in full")
    return Outcome(items)


def _parameters(entry: Entry, size: _Size) -> int | None:
    if "*" in entry.name:
        return None  # an adapter: it stands for many networks
    from kdcli import jobs

    try:
        return int(jobs.describe_model(entry.name, size.classes, size.shape).parameters)
    except KdError:  # this network does not take this image size: a list shows the others
        return None


def _show(env: Environment, found: Entry, size: _Size) -> Outcome:
    from kdcli import jobs

    card = jobs.describe_model(found.name, size.classes, size.shape)
    taps = tuple(TapItem(name, channels, stride) for name, (channels, stride) in card.taps.items())
    details = ModelDetails(
        found.name, found.family, found.summary, found.doc, card.num_classes, card.input_shape, card.parameters, card.macs,
        found.facts.get("smaller"), taps, options_of(found),
    )  # fmt: skip
    env.write("\n".join(_card_lines(details)))
    return Outcome(details)


def _card_lines(card: ModelDetails) -> list[str]:
    size = f"{words.count(card.parameters)} parameters · {words.count(card.macs)} multiply-adds an image"
    taps = columns([(tap.name, f"{tap.channels} channels", f"stride {tap.stride}" if tap.stride else "vector") for tap in card.taps], "<>")
    return [
        f"{card.name} · {card.family} · {size}",
        f"  for {card.num_classes} classes, {_times(card.input_shape)}" + (f" · next smaller: {card.smaller}" if card.smaller else ""),
        "",
        wrap(card.doc),
        "",
        "Taps",
        *taps,
        "",
        "Options",
        *option_lines(card.options),
    ]


def _times(shape: tuple[int, int, int]) -> str:
    return "×".join(map(str, shape))
