"""`kd datasets`: which data exist, which are on this disk, and the one command that fetches
some.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli.commands.option_table import OptionItem, option_lines, options_of
from kdcli.cli.console import Environment
from kdcli.cli.options import DataRoot
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.text import columns, wrap
from kdcli.errors import UsageError

if TYPE_CHECKING:
    from kdcli.catalog import Entry

NAME = "datasets"
EXAMPLES = """
kd datasets
kd datasets cifar100
kd datasets --json -q | jq -r '.data[] | select(.present) | .name'
"""


@dataclass(frozen=True, slots=True)
class DatasetItem:
    """A dataset in the list. present: whether it can be used as it is; None where that depends on a
    path you give.
    """

    name: str
    family: str
    summary: str
    classes: int | None
    shape: tuple[int, ...] | None
    train: int | None
    test: int | None
    megabytes: int
    downloadable: bool
    present: bool | None


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """A dataset in full."""

    about: DatasetItem
    doc: str
    root: str
    options: tuple[OptionItem, ...]


Download = Annotated[
    bool, typer.Option("--download", help="Fetch it. Nothing else of kd uses the network.")
]


def run(
    env: Environment,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A dataset.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    download: Download = False,  # noqa: FBT002
    data_dir: DataRoot = None,
) -> Outcome:
    """The datasets: all, one in full, or one to fetch."""
    from kdcli import catalog

    root = catalog.data_root(data_dir, env.environ)
    if name is None:
        if download:
            raise UsageError(
                "--download needs the name of a dataset", hint="kd datasets NAME --download"
            )
        return _list(env, root)
    if name.endswith(".py"):
        return _list(env, root, catalog.own_entries("dataset", name))
    found = catalog.entry("dataset", name)
    if download:
        _download(env, found, root)
    card = DatasetCard(_item(found, root), found.doc, str(root), options_of(found))
    head = f"{card.about.name} · {card.about.summary} · {_presence(card.about)}"
    env.write(
        "\n".join(
            [
                head,
                f"  {_size(card.about)}",
                "",
                wrap(card.doc),
                "",
                "Options",
                *option_lines(card.options),
            ]
        )
    )
    return Outcome(card)


def _list(env: Environment, root: Path, own: tuple[Entry, ...] = ()) -> Outcome:
    """All datasets, or those that a file of the user's own may offer, which is read and not run."""
    from kdcli import catalog

    found = own or tuple(catalog.entries("dataset").values())
    items = tuple(_item(entry, root) for entry in found)
    rows = [(item.name, _size(item), _presence(item), item.summary) for item in items]
    last = (
        f"{formatting.plural(len(own), 'function')} of {own[0].path.name}, "
        "which was read and not run"
        if own
        else f"{len(items)} datasets · in {root} · kd datasets NAME for one in full"
    )
    env.write_rows(columns(rows), f"  {last}")
    return Outcome(items)


def _item(found: Entry, root: Path) -> DatasetItem:
    from kdcli import catalog

    facts = found.facts
    shape = tuple(facts["shape"]) if facts.get("shape") else None
    return DatasetItem(
        found.name,
        found.family,
        found.summary,
        facts.get("classes"),
        shape,
        facts.get("train"),
        facts.get("test"),
        int(facts.get("megabytes") or 0),
        bool(facts.get("download")),
        catalog.is_present(found, root),
    )


def _presence(item: DatasetItem) -> str:
    if item.present is None:
        return "from a path you give"
    if item.present:
        return "✓ present" if item.downloadable else "✓ built in"
    return f"✗ not here ({item.megabytes} MB: --download)" if item.downloadable else "✗ not here"


def _size(item: DatasetItem) -> str:
    if not item.classes:
        return "as you say"
    shape = "×".join(map(str, item.shape)) if item.shape else formatting.MISSING
    counts = [
        formatting.thousands(number) if number else formatting.MISSING
        for number in (item.train, item.test)
    ]
    return f"{item.classes} classes · {shape} · {counts[0]} train · {counts[1]} test"


def _download(env: Environment, found: Entry, root: Path) -> None:
    if not found.facts.get("download"):
        raise UsageError(
            f"{found.name} is not something to download",
            hint=f"kd datasets {found.name} says where it comes from",
        )
    from kdcli import jobs

    env.progress(f"fetching {found.name} ({found.facts.get('megabytes')} MB) into {root}")
    jobs.download(found.name, str(root))
    env.report(("✓", "green"), f" {found.name} is in {root}")
