"""`kd models`: the networks. The list comes from the files and is there at once; sizes are computed when they are asked for."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

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
    typer.Argument(help="A name, or a wildcard such as 'resnet*' (quoted).", show_default=False, autocompletion=completion.models),
]
For = Annotated[
    str,
    typer.Option(
        "-d",
        "--data",
        help="The dataset whose image size and classes the sizes are for.",
        metavar="NAME",
        autocompletion=completion.datasets,
    ),
]


def run(env: Environment, pattern: Pattern = None, data: For = "cifar100") -> Outcome:
    """The networks: all, those that match, or one in full."""
    from kdcli import catalog

    if pattern is None:
        return _list(env, tuple(catalog.entries("model").values()))
    classes, shape = _shape_of(data)
    if not any(sign in pattern for sign in "*?["):
        return _show(env, catalog.entry("model", pattern), classes, shape)
    found = tuple(entry for name, entry in catalog.entries("model").items() if fnmatch.fnmatchcase(name, pattern))
    if not found:
        raise NotFound(f"no network matches {pattern!r}", hint="kd models lists all of them")
    return _list(env, found, classes, shape)


def _shape_of(data: str) -> tuple[int, tuple[int, int, int]]:
    from kdcli import catalog

    facts = catalog.entry("dataset", data).facts
    classes, shape = facts.get("classes"), facts.get("shape")
    if not classes or not shape:
        raise UsageError(f"{data} has no image size or classes of its own", hint="-d cifar100, or another dataset of fixed size")
    channels, height, width = shape
    return classes, (channels, height, width)


def _list(env: Environment, found: tuple[Entry, ...], classes: int = 0, shape: tuple[int, int, int] = (0, 0, 0)) -> Outcome:
    items = tuple(ModelItem(entry.name, entry.family, entry.summary, _parameters(entry, classes, shape)) for entry in found)
    families = list(dict.fromkeys(item.family for item in items))
    heads = {next(item.name for item in items if item.family == family): family for family in families}
    rows = [
        (
            heads.get(item.name, ""),
            item.name,
            *((words.count(item.parameters) if item.parameters else "",) if classes else ()),
            item.summary,
        )
        for item in items
    ]
    about = f" · parameters for {classes} classes, {_times(shape)}" if classes else ""
    env.write("\n".join(columns(rows, "<<>" if classes else "")) + f"\n  {len(items)} networks{about} · kd models NAME for one in full")
    return Outcome(items)


def _parameters(entry: Entry, classes: int, shape: tuple[int, int, int]) -> int | None:
    if not classes or "*" in entry.name:
        return None
    from kdcli import jobs

    try:
        return int(jobs.describe_model(entry.name, classes, shape).parameters)
    except KdError:  # this network does not take this image size: a list shows the others
        return None


def _show(env: Environment, found: Entry, classes: int, shape: tuple[int, int, int]) -> Outcome:
    from kdcli import jobs

    card: Any = jobs.describe_model(found.name, classes, shape)
    taps = tuple(TapItem(name, channels, stride) for name, (channels, stride) in card.taps.items())
    details = ModelDetails(
        found.name, found.family, found.summary, found.doc, classes, shape, card.parameters, card.macs,
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
