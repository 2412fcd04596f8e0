"""`kd models`: the networks. The list comes from the files and is there at once; sizes are computed
when they are asked for.
"""

from __future__ import annotations

import fnmatch
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli.commands.model_download import Download, download_model
from kdcli.cli.commands.module_list import ModuleItem, module_lines, modules_of
from kdcli.cli.commands.option_table import OptionItem, option_lines, options_of
from kdcli.cli.console import Environment
from kdcli.cli.options import Trust
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.text import columns, wrap
from kdcli.errors import KdError, NotFound, UsageError

if TYPE_CHECKING:
    from kdcli.catalog import Entry
    from kdcli.jobs import ModelCard

NAME = "models"
EXAMPLES = """
kd models
kd models 'resnet*' -d cifar100
kd models --teacher resnet56 -d cifar100
"""
# networks of a library: of more, sizes are those that longer patterns have measured before
MANY = 300


@dataclass(frozen=True, slots=True)
class ModelItem:
    """A network in the list. What was not built has no sizes: parameters, macs (multiply-adds an
    image), input_shape and taps are None.

    Beside a teacher, ratios are its number divided by this network's.
    """

    name: str
    family: str
    summary: str
    parameters: int | None = None
    macs: int | None = None
    input_shape: tuple[int, int, int] | None = None
    taps: tuple[str, ...] | None = None
    parameters_ratio: float | None = None
    macs_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class TapItem:
    """A place inside a network that methods can read. stride: None for a vector."""

    name: str
    channels: int
    stride: int | None


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """A network in full, built for one kind of data. macs: multiply-accumulate operations an
    image. modules: those that can be taps, where they were asked for. Of a file of the user's own
    that was not run: parameters, macs and input_shape are None, and there are no taps.
    """

    name: str
    family: str
    summary: str
    doc: str
    num_classes: int
    input_shape: tuple[int, int, int] | None
    parameters: int | None
    macs: int | None
    smaller: str | None
    taps: tuple[TapItem, ...]
    options: tuple[OptionItem, ...]
    modules: tuple[ModuleItem, ...] = ()


Pattern = Annotated[
    str | None,
    typer.Argument(
        metavar="PATTERN",
        help="A name, or a wildcard such as 'resnet*' (quoted).",
        show_default=False,
        autocompletion=completion.models,
    ),
]
For = Annotated[
    str | None,
    typer.Option(
        "-d",
        "--data",
        help=(
            "Sizes for this dataset's images and classes; else each network's usual images, and "
            "10 classes."
        ),
        metavar="NAME",
        show_default=False,
        autocompletion=completion.datasets,
    ),
]


Teacher = Annotated[
    str | None,
    typer.Option(
        "-t",
        "--teacher",
        help=(
            "Networks that this one could teach, the nearest first: a network, a run directory "
            "or a model.safetensors."
        ),
        metavar="X",
        show_default=False,
        autocompletion=lambda incomplete: (
            completion.models(incomplete) + completion.runs(incomplete)
        ),
    ),
]


Modules = Annotated[
    bool,
    typer.Option(
        "--taps",
        help=(
            "List the modules of one network that student.taps can name. A file of your own runs "
            "for it."
        ),
    ),
]


@dataclass(frozen=True, slots=True)
class _Size:
    """The data that networks are built for. shape: None for each network's usual one."""

    classes: int = 10
    shape: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.classes} classes" + (f", {_times(self.shape)}" if self.shape else "")


def run(
    env: Environment,
    pattern: Pattern = None,
    data: For = None,
    teacher: Teacher = None,
    taps: Modules = False,  # noqa: FBT002
    download: Download = False,  # noqa: FBT002
    trust: Trust = False,  # noqa: FBT002
) -> Outcome:
    """The networks: all, those that match, or one in full.

    A file of your own is read and not run: its networks are listed, and their sizes need --trust.
    """
    from kdcli import catalog

    size = _size_of(data) if data is not None else None
    if download:
        download_model(env, None if pattern is None or _is_wild(pattern) else pattern)
    if taps:
        if pattern is None or _is_wild(pattern) or teacher is not None:
            raise UsageError(
                "--taps is about one network", hint="kd models torchvision/resnet18 --taps"
            )
        return _show(env, catalog.entry("model", pattern), size, modules=True)
    if teacher is not None:
        among = _matching(pattern) if pattern is not None else None
        return _propose(env, teacher, among, size, trust=trust)
    if pattern is not None and pattern.endswith(".py"):
        return _list_file(env, pattern)
    if pattern is not None and not _is_wild(pattern):
        found = catalog.entry("model", pattern)
        if found.own and not trust:
            return _show_unrun(env, found, size or _Size())
        return _show(env, found, size)
    if pattern is None:
        listed = list(catalog.entries("model").values())
    else:
        listed, size = _matching(pattern), size or _Size()
    if pattern is not None and any("/" in entry.name for entry in listed):
        return _list_library(env, listed, size or _Size())
    items = [_item(entry, size) for entry in listed]
    about = f" · parameters for {size}" if size else ""
    return _list(env, items, f"{len(items)} networks{about} · kd models NAME for one in full")


def _is_wild(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


def _matching(pattern: str) -> list[Entry]:
    """The networks that a name or wildcard means. An adapter's are looked through where the pattern
    begins with its prefix.
    """
    from kdcli import catalog

    if not _is_wild(pattern):
        return [catalog.entry("model", pattern)]
    found = [
        entry
        for name, entry in catalog.entries("model").items()
        if fnmatch.fnmatchcase(name, pattern)
    ]
    for adapter in (
        entry for entry in catalog.entries("model").values() if entry.name.endswith("/*")
    ):
        if pattern.startswith(adapter.name[:-1]):
            from kdcli import jobs

            members = jobs.model_members(adapter.name).items()
            found = [
                replace(catalog.entry("model", name), summary=text)
                for name, text in members
                if fnmatch.fnmatchcase(name, pattern)
            ]
    if not found:
        raise NotFound(f"no network matches {pattern!r}", hint="kd models lists all of them")
    return found


def _size_of(data: str) -> _Size:
    from kdcli import catalog

    facts = catalog.entry("dataset", data).facts
    classes, shape = facts.get("classes"), facts.get("shape")
    if not classes or not shape:
        raise UsageError(
            f"{data} has no image size or classes of its own",
            hint="-d cifar100, or another dataset of fixed size",
        )
    channels, height, width = shape
    return _Size(classes, (channels, height, width))


def _item(entry: Entry, size: _Size | None) -> ModelItem:
    """A row of the list; with sizes where they are asked for, because that takes torch."""
    bare = ModelItem(entry.name, entry.family, entry.summary)
    if size is None or entry.name.endswith("/*"):  # an adapter stands for many networks
        return bare
    from kdcli import jobs

    try:
        return _measured(bare, jobs.describe_model(entry.name, size.classes, size.shape))
    except KdError:  # this network does not take this image size: a list shows the others
        return bare


def _list_library(env: Environment, listed: list[Entry], size: _Size) -> Outcome:
    """Networks of a library, which are many and large: each is measured once and remembered."""
    from kdcli import jobs

    named = [entry.name for entry in listed if not entry.name.endswith("/*")]

    def measuring(left: int) -> None:
        networks = formatting.plural(left, "network")
        env.progress(f"  measuring {networks}, once: the sizes are remembered ...")

    cards = jobs.describe_models(
        named,
        size.classes,
        size.shape,
        measuring=measuring,
        **({"seconds": 0.0} if len(named) > MANY else {}),
    )
    bare = {entry.name: ModelItem(entry.name, entry.family, entry.summary) for entry in listed}
    items = [
        item if (card := cards.get(name)) is None else _measured(item, card)
        for name, item in bare.items()
    ]
    left = sum(name not in cards for name in named)
    more = "sizes of more with a narrower wildcard" if len(named) > MANY else "sizes of more: again"
    about = f" · parameters for {size}" + (f" · {more}" if left else "")
    return _list(env, items, f"{len(items)} networks{about} · kd models NAME for one in full")


def _measured(bare: ModelItem, card: ModelCard) -> ModelItem:
    return replace(
        bare,
        parameters=card.parameters,
        macs=card.macs,
        input_shape=card.input_shape,
        taps=tuple(card.taps),
    )


def _propose(
    env: Environment,
    teacher: str,
    among: list[Entry] | None,
    size: _Size | None,
    *,
    trust: bool,
) -> Outcome:
    from kdcli import catalog, jobs

    names = None if among is None else [entry.name for entry in among]
    classes, shape = (size.classes, size.shape) if size else (None, None)
    card, proposals = jobs.propose_students(teacher, names, classes, shape, trust=trust)
    if not proposals:
        raise NotFound(
            f"no network of the zoo is smaller than {teacher}, which has "
            f"{formatting.count(card.parameters)} parameters"
        )
    items = []
    for proposal in proposals:
        entry = catalog.entry("model", proposal.card.name)
        measured = _measured(ModelItem(entry.name, entry.family, entry.summary), proposal.card)
        items.append(
            replace(
                measured, parameters_ratio=proposal.parameters_ratio, macs_ratio=proposal.macs_ratio
            )
        )
    size = _Size(card.num_classes, card.input_shape)
    costs = (
        f"{formatting.count(card.parameters)} parameters, {formatting.count(card.macs)} "
        "multiply-adds for "
        f"{size}"
    )
    usual = _sibling(card.name)
    return _list(
        env,
        items,
        f"(n×): fewer than {teacher}, {costs}"
        + (f" · kd distill takes {usual} unless told" if usual else ""),
    )


def _sibling(name: str) -> str | None:
    from kdcli import catalog

    try:
        found: str | None = catalog.entry("model", name).facts.get("smaller")
    except NotFound:  # several networks in one checkpoint have no entry
        return None
    return found


def _list(env: Environment, items: list[ModelItem], last: str = "") -> Outcome:
    sized = any(item.parameters for item in items)
    heads = [
        item.family if place == 0 or items[place - 1].family != item.family else ""
        for place, item in enumerate(items)
    ]
    rows = [
        (head, item.name, *(_sizes(item) if sized else ()), item.summary)
        for head, item in zip(heads, items, strict=True)
    ]
    titles = [("", "", "parameters", "multiply-adds", "input", "taps", "")] if sized else []
    env.write_rows(columns([*titles, *rows], "<<>>>" if sized else ""), f"  {last}")
    return Outcome(tuple(items))


def _sizes(item: ModelItem) -> tuple[str, str, str, str]:
    if item.parameters is None:
        return "", "", "", ""
    if item.macs is None or item.input_shape is None:
        return formatting.count(item.parameters), "", "", ""
    amounts = ((item.parameters, item.parameters_ratio), (item.macs, item.macs_ratio))
    parameters, macs = (
        formatting.count(amount) + (f" ({formatting.times(ratio)})" if ratio is not None else "")
        for amount, ratio in amounts
    )
    return parameters, macs, _times(item.input_shape), _places(item.taps or ())


def _places(taps: tuple[str, ...]) -> str:
    """Names of taps in short: stem, stage1-3 (.pre), pooled."""
    stages = [tap for tap in taps if tap.startswith("stage") and "." not in tap]
    short = f"stage1-{len(stages)}" if len(stages) > 1 else "".join(stages)
    before = " (.pre)" if any(tap.endswith(".pre") for tap in taps) else ""
    parts = [tap for tap in taps if not tap.startswith("stage")]
    return ", ".join(
        [
            *(tap for tap in parts if tap == "stem"),
            *([short + before] if stages else []),
            *(tap for tap in parts if tap != "stem"),
        ]
    )


def _show(env: Environment, found: Entry, size: _Size | None, *, modules: bool = False) -> Outcome:
    from kdcli import jobs

    size = size or _Size(jobs.usual_classes(found.name) or 10)

    card = jobs.describe_model(found.name, size.classes, size.shape)
    taps = tuple(TapItem(name, channels, stride) for name, (channels, stride) in card.taps.items())
    details = ModelDetails(
        found.name,
        found.family,
        found.summary,
        found.doc,
        card.num_classes,
        card.input_shape,
        card.parameters,
        card.macs,
        found.facts.get("smaller"),
        taps,
        options_of(found),
        modules_of(found.name, size.classes, size.shape) if modules else (),
    )
    if modules:
        shape = _times(card.input_shape)
        lines = module_lines(details.modules, f"modules of {found.name} can be taps, for {shape}")
    else:
        lines = _card_lines(details)
    env.write("\n".join(lines))
    return Outcome(details)


def _show_unrun(env: Environment, found: Entry, size: _Size) -> Outcome:
    """A network of a file that was only read."""
    details = ModelDetails(
        found.name,
        found.family,
        found.summary,
        found.doc,
        size.classes,
        size.shape,
        None,
        None,
        None,
        (),
        options_of(found),
    )
    told = f"kd models {shlex.quote(found.name)} --trust"
    lines = [
        f"{found.name} · a file of your own, read and not run",
        "",
        wrap(found.doc),
        "",
        f"  Parameters and taps are known when it runs: {told}",
    ]
    env.write("\n".join(lines))
    return Outcome(details)


def _list_file(env: Environment, file: str) -> Outcome:
    """The networks that a file may offer, read and not run."""
    from kdcli import catalog

    found = catalog.own_entries("model", file)
    items = [ModelItem(entry.name, entry.family, entry.summary) for entry in found]
    several = formatting.plural(len(items), "function")
    return _list(env, items, f"{several} of {file}, which was read and not run")


def _card_lines(card: ModelDetails) -> list[str]:
    assert card.parameters is not None
    assert card.macs is not None
    assert card.input_shape is not None
    size = (
        f"{formatting.count(card.parameters)} parameters · {formatting.count(card.macs)} "
        "multiply-adds an "
        "image"
    )
    taps = columns(
        [
            (
                tap.name,
                f"{tap.channels} channels",
                f"stride {tap.stride}" if tap.stride else "vector",
            )
            for tap in card.taps
        ],
        "<>",
    )
    return [
        f"{card.name} · {card.family} · {size}",
        f"  for {card.num_classes} classes, {_times(card.input_shape)}"
        + (f" · next smaller: {card.smaller}" if card.smaller else ""),
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
