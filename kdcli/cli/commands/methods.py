"""`kd methods`: what can be distilled by, from the docstrings of the method files. Imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import completion
from kdcli.cli.commands.option_table import OptionItem, option_lines, options_of
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.text import columns, wrap

if TYPE_CHECKING:
    from kdcli.catalog import Entry

NAME = "methods"
EXAMPLES = """
kd methods skd
kd methods --like crd
kd methods --json -q | jq -r '.data[].name'
"""
# others follow
FAMILIES = (
    "baseline",
    "logit",
    "feature",
    "relation",
    "contrastive",
    "online",
    "chain",
    "self",
    "own",
)


@dataclass(frozen=True, slots=True)
class MethodItem:
    """A method in the list."""

    name: str
    family: str
    summary: str


@dataclass(frozen=True, slots=True)
class MethodRelative:
    """A method that is like another. reasons: why, in words; the more, the nearer."""

    name: str
    family: str
    summary: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MethodCard:
    """A method in full. teachers: least and most, None for no limit. taps: patterns of the places
    that it reads.

    consumes, trains: in words. cacheable: whether stored teacher logits serve it. labels_for: what
    it needs a label of every training image for; "" where it does not.
    """

    name: str
    family: str
    summary: str
    doc: str
    teachers: tuple[int, int | None]
    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]
    consumes: str
    trains: str
    cacheable: bool
    labels_for: str
    options: tuple[OptionItem, ...]


def run(
    env: Environment,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A method, or a file with one.",
            show_default=False,
            autocompletion=completion.methods,
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="NAME",
            help="The relatives of a method: of its family, reading the same, or named by either.",
            show_default=False,
            autocompletion=completion.methods,
        ),
    ] = None,
) -> Outcome:
    """The methods: all, one in full, or those like one."""
    from kdcli import catalog
    from kdcli.errors import UsageError

    if like is not None:
        if name is not None:
            raise UsageError(
                f"kd methods {name} --like {like}: one method in full, or the relatives of one",
                hint=f"kd methods --like {like}",
            )
        return _relatives(env, like)
    if name is None:
        return _list(env)
    card = _card(catalog.entry("method", name))
    stored = (
        ["Stored teacher logits serve it: the teacher's network need not run."]
        if card.cacheable
        else []
    )
    if card.labels_for:
        stored.append(f"It needs a label of every training image: {card.labels_for}.")
    lines = [
        f"{card.name} · {card.family} · {_needs(card)}",
        *stored,
        "",
        wrap(card.doc),
        "",
        "Options",
        *option_lines(card.options),
    ]
    env.write("\n".join([*lines, "", f"  kd distill --method {card.name} -s method.OPTION=VALUE"]))
    return Outcome(card)


def _list(env: Environment) -> Outcome:
    from kdcli import catalog

    found = sorted(
        catalog.entries("method").values(),
        key=lambda entry: (_rank(entry.family), entry.family, entry.name),
    )
    items = tuple(MethodItem(entry.name, entry.family, entry.summary) for entry in found)
    heads = [
        item.family if place == 0 or items[place - 1].family != item.family else ""
        for place, item in enumerate(items)
    ]
    rows = columns(
        [(head, item.name, item.summary) for head, item in zip(heads, items, strict=True)]
    )
    env.write_rows(rows, f"  {len(items)} methods · kd methods NAME for options")
    return Outcome(items)


def _relatives(env: Environment, name: str) -> Outcome:
    from kdcli import catalog
    from kdcli.relatives import relatives

    found = tuple(
        MethodRelative(each.entry.name, each.entry.family, each.entry.summary, each.reasons)
        for each in relatives(catalog.entry("method", name))
    )
    rows = columns([(item.name, ", ".join(item.reasons), item.summary) for item in found])
    env.write_rows(rows, f"  {len(found)} relatives of {name}, the nearest first")
    return Outcome(found)


def _rank(family: str) -> int:
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)


def _card(found: Entry) -> MethodCard:
    facts: dict[str, Any] = dict(found.facts)
    least, most = facts.get("teachers") or (1, 1)
    student_taps, teacher_taps = (
        tuple(facts.get(key) or ()) for key in ("student_taps", "teacher_taps")
    )
    return MethodCard(
        name=found.name,
        family=found.family,
        summary=found.summary,
        doc=found.doc,
        teachers=(least, most),
        student_taps=student_taps,
        teacher_taps=teacher_taps,
        consumes=facts.get("consumes") or "",
        trains=facts.get("trains") or "student",
        cacheable=bool(facts.get("cacheable")),
        labels_for=str(facts.get("labels_for", "")),
        options=options_of(found),
    )


def _needs(card: MethodCard) -> str:
    from kdcli import catalog

    reads = f"reads {card.consumes}" if card.consumes else ""
    return " · ".join(
        part
        for part in (
            f"needs {catalog.teachers_in_words(*card.teachers)}",
            reads,
            f"trains {card.trains}",
        )
        if part
    )
