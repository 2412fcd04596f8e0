"""The commands of `kd` as Markdown, read from the application itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from kdcli.cli.app import command_tree
from kdcli.cli.command import GLOBAL


def command_sections() -> Iterator[str]:
    """One section a command, in the order of `kd --help`, then the options that all of them
    take.
    """
    group: Any = command_tree()
    for name, command in _leaves(group, "kd"):
        yield _section(name, command)
    yield (
        "## Global options\n\nValid before or after the "
        f"command.\n\n{_options(group, 'kd', only_global=True)[GLOBAL]}"
    )


def _leaves(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in group.commands:
        command = group.commands[name]
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _section(name: str, command: Any) -> str:
    parts = [f"## {name}\n", inspect.cleandoc(command.help or "").replace("\b\n", "") + "\n"]
    for panel, rows in _options(command, name, only_global=False).items():
        parts.append(f"**{panel}**\n\n{rows}")
    _, _, examples = (command.epilog or "").partition("Examples:\n")
    if examples:
        parts.append(f"```sh\n{inspect.cleandoc(examples)}\n```\n")
    return "\n".join(parts)


def _options(command: Any, name: str, *, only_global: bool) -> dict[str, str]:
    """A Markdown list of parameters for each panel of a command's help."""
    context = command.context_class(command, info_name=name)
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        record = parameter.get_help_record(context)
        panel = parameter.rich_help_panel or (
            "Arguments" if parameter.param_type_name == "argument" else "Options"
        )
        if record is not None and (panel == GLOBAL) == only_global:
            panels.setdefault(panel, []).append(f"- `{record[0]}`: {record[1]}")
    return {panel: "\n".join(rows) + "\n" for panel, rows in panels.items()}
