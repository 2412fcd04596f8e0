"""The modules of a network that can be taps, as `kd models NAME --taps` lists them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from kdcli.cli.text import columns


@dataclass(frozen=True, slots=True)
class ModuleItem:
    """A module that `student.taps` can name. kind: what it gives: map, channels last, tokens or
    vector. size: height and width of the map that it is laid out as; None for a vector.
    """

    path: str
    type: str
    kind: str
    channels: int
    size: tuple[int, int] | None


def modules_of(
    name: str, classes: int, shape: tuple[int, int, int] | None
) -> tuple[ModuleItem, ...]:
    """The modules of a network, built for so many classes and pictures of a shape."""
    from kdcli import jobs

    cards = jobs.describe_modules(name, classes, shape)
    return tuple(ModuleItem(**asdict(card)) for card in cards)


def module_lines(items: Sequence[ModuleItem], about: str) -> list[str]:
    """A line for each module, and a last one: how many, about what, and what to write."""
    rows = [
        (
            item.path,
            item.kind,
            f"{item.channels} channels",
            f"{item.size[0]}×{item.size[1]}" if item.size else "",
            item.type,
        )
        for item in items
    ]
    example = next((item.path for item in items if item.size), "PATH")
    last = f"  {len(rows)} {about} · student.taps = {{ stage1 = {json.dumps(example)} }}"
    return [*columns(rows, "<<>><"), last]
