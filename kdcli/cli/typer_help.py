"""typer's commands without its heavy imports, so that `kd --help`, listings and completion answer
at once.

typer draws help panels with rich and, in newer versions, converts every value with pydantic;
importing either takes about as long as a listing may take in all. Help is plain text here, and the
few types that kd's options have are converted by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    bool: bool,
    str: str,
    int: int,
    float: float,
    Path: Path,
}
_WORDS = {int: "a whole number", float: "a number"}


class _Plain:
    """Converts values of one type, or of a list of it; stands where newer versions of typer would
    build a pydantic adapter.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        try:
            return (
                [_CONVERTERS[self._kind](item) for item in value]
                if isinstance(value, list | tuple)
                else _CONVERTERS[self._kind](value)
            )
        except ValueError as error:
            raise typer.BadParameter(
                f"{value!r} is not {_WORDS[self._kind]}", ctx=ctx, param=param
            ) from error


def _lighten(parameters: list[Any]) -> None:
    for parameter in parameters:
        # older versions convert by themselves, and lightly
        descriptor = getattr(parameter, "type_descriptor", None)
        if descriptor is not None:
            kind = (get_args(descriptor.annotation) or (descriptor.annotation,))[0]
            if kind in _CONVERTERS:
                parameter._runtime_param = _Plain(kind)  # noqa: SLF001  typer builds its own only where none is set


def _panels(rows: list[tuple[str, tuple[str, str]]]) -> dict[str, list[tuple[str, str]]]:
    panels: dict[str, list[tuple[str, str]]] = {}
    for panel, row in rows:
        panels.setdefault(panel, []).append(row)
    return panels


def _write(formatter: Any, panels: dict[str, list[tuple[str, str]]]) -> None:
    for panel, rows in panels.items():
        with formatter.section(panel):
            formatter.write_dl(rows)


def _parameters(self: Any, ctx: Any) -> list[tuple[str, tuple[str, str]]]:
    rows = []
    for parameter in self.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            rows.append((getattr(parameter, "rich_help_panel", None) or default, record))
    return sorted(rows, key=lambda row: (row[0].startswith("Global"), row[0] == "Options"))


class Command(TyperCommand):
    """A command whose help shows its options by panel."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _lighten(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write(formatter, _panels(_parameters(self, ctx)))


class Group(TyperGroup):
    """The list of commands by panel, then the global options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _lighten(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _write(formatter, _panels(_parameters(self, ctx)))

    def command_rows(self, ctx: Any) -> Iterator[tuple[str, str, str]]:
        """Panel, name and summary of every command."""
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                yield "Commands", name, command.short_help or command.get_short_help_str(limit=90)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = list(self.command_rows(ctx))
        width = max((len(name) for _, name, _ in rows), default=0)
        _write(
            formatter, _panels([(panel, (name.ljust(width), text)) for panel, name, text in rows])
        )
