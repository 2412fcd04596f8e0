"""Options of a method, network or dataset as rows: name, type, default, description. Read from the
class, kept nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdcli.cli.text import columns, option

if TYPE_CHECKING:
    from kdcli.catalog import Entry


@dataclass(frozen=True, slots=True)
class OptionItem:
    """One option. type: in words, with its range or choices."""

    name: str
    type: str
    default: Any
    description: str


def options_of(found: Entry) -> tuple[OptionItem, ...]:
    """The options that an entry takes in a recipe."""
    from kdcli import catalog

    schema = catalog.options_class(found).model_json_schema()
    shared = schema.get("$defs", {})
    return tuple(
        OptionItem(name, _words(facts, shared), facts.get("default"), _described(facts))
        for name, facts in schema.get("properties", {}).items()
    )


def _described(facts: dict[str, Any]) -> str:
    """What an option is for; and of an own file's, what only running it would tell."""
    from kdcli.static_options import UNREAD

    text: str = facts.get("description", "")
    if UNREAD in facts:
        text = f"{text} (its {facts[UNREAD]} is known when the file runs)".strip()
    return text


def option_lines(items: tuple[OptionItem, ...]) -> list[str]:
    """The options as aligned lines."""
    if not items:
        return ["  no options"]
    return columns(
        [(item.name, item.type, option(item.default), item.description) for item in items]
    )


_NAMES = {
    "number": "float",
    "integer": "int",
    "boolean": "on|off",
    "string": "text",
    "array": "list",
    "object": "table",
    "null": "none",
}


def _words(facts: dict[str, Any], shared: dict[str, Any]) -> str:
    if "$ref" in facts:
        return _words(shared[facts["$ref"].rpartition("/")[2]], shared)
    if "enum" in facts or "const" in facts:
        return "|".join(map(str, facts.get("enum", [facts.get("const")])))
    if "anyOf" in facts:
        return " or ".join(
            dict.fromkeys(
                _words(part, shared) for part in facts["anyOf"] if part.get("type") != "null"
            )
        )
    if facts.get("type") == "array" and isinstance(facts.get("items"), dict) and facts["items"]:
        return f"list of {_words(facts['items'], shared)}"
    return _NAMES.get(facts.get("type", ""), "any") + _bounds(facts)


def _bounds(facts: dict[str, Any]) -> str:
    low, high = facts.get("minimum"), facts.get("maximum")
    if low is not None and high is not None:
        return f" {low:g}–{high:g}"
    signs = (
        ("exclusiveMinimum", ">"),
        ("minimum", "≥"),
        ("exclusiveMaximum", "<"),
        ("maximum", "≤"),
    )
    parts = [f"{sign} {facts[key]:g}" for key, sign in signs if key in facts]
    return f" {' '.join(parts)}" if parts else ""
