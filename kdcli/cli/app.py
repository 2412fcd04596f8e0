"""The command tree, and the one place where what happened becomes an exit code."""

from __future__ import annotations

import functools
import importlib
import keyword
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from kdcli.cli.command import absorb, command, examples, shared_parameters, signed
from kdcli.cli.console import Environment, refuse_odd_bytes
from kdcli.cli.output.envelope import Outcome, dumps, envelope
from kdcli.cli.output.errors import explain
from kdcli.cli.typer_help import Command, Group
from kdcli.errors import Exit

# a command is a module of kdcli.cli.commands by its name with underscores (and one behind a word of
# Python); it is imported when it is invoked
PANELS: dict[str, tuple[str, ...]] = {
    "Train": ("train-teacher", "distill", "resume", "sweep", "cache", "plan", "import"),
    "Measure": ("evaluate", "analyze-gap", "compare", "table"),
    "Use": ("predict", "export"),
    "Search": ("find-teacher", "search"),
    "Explore": ("methods", "models", "datasets", "recipes"),
    "Project": ("check", "schema", "report"),
    "System": ("doctor",),
}
EXAMPLES = """
kd distill         # the quickstart: seconds, no download, no GPU
kd analyze-gap     # how far its student is from its teacher
"""
_SUMMARY = re.compile(r'^def run\(.*?^    """(.+?)(?:"""|$)', re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'\A"""(.+?)(?:"""|$)', re.MULTILINE)


def names() -> tuple[str, ...]:
    """Every command, in the order of the help."""
    return tuple(name for panel in PANELS.values() for name in panel)


def module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"kdcli.cli.commands.{_stem(name)}")


def _stem(name: str) -> str:
    return name.replace("-", "_") + "_" * keyword.iskeyword(name)


def _summary(name: str) -> str:
    """The first line of what a command's help says, read without importing it."""
    file = Path(__file__).parent / "commands" / f"{_stem(name)}.py"
    text = file.read_text(encoding="utf-8")
    found = _SUMMARY.search(text) or _TITLE.search(text)
    return found[1].strip() if found else ""


class _Commands(dict[str, Any]):
    """Commands by name, each made when it is first looked up: `kd --help` and `kd methods` need not
    import the others.
    """

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(names()))

    def __getitem__(self, name: str) -> Any:
        made = super().__getitem__(name)
        if made is None:
            made = self[name] = _make(name)
        return made

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  get() itself


class Root(Group):
    """`kd` itself."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.commands = _Commands()

    def command_rows(self, ctx: Any) -> Iterator[tuple[str, str, str]]:  # noqa: ARG002  as the group's own
        for panel, members in PANELS.items():
            yield from ((panel, name, _summary(name)) for name in members)


def _root(ctx: typer.Context, **given: Any) -> Outcome | None:
    """Teacher-student distillation, and the gap explained."""
    env = ctx.find_object(Environment)
    assert env is not None
    absorb(env, given)
    if ctx.invoked_subcommand is not None:
        return None
    if env.argv:
        raise typer.BadParameter("no command given", ctx=ctx)
    env.write(ctx.get_help())
    return Outcome()


@functools.cache
def command_tree() -> Any:
    """The command tree that `kd` parses with, made once a process."""
    app = typer.Typer(
        cls=Root, rich_markup_mode=None, pretty_exceptions_enable=False, epilog=examples(EXAMPLES)
    )
    app.callback(invoke_without_command=True)(signed(_root, shared_parameters()))
    return typer.main.get_command(app)


def _make(name: str) -> Any:
    """The command of one module; a group where it has several."""
    found = module(name)
    if hasattr(found, "COMMANDS"):
        made = typer.main.get_command(_group(found))
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        _add(alone, found.run, name, found.EXAMPLES)
        made = typer.main.get_command(alone)
    made.name = name
    return made


def _group(found: ModuleType) -> typer.Typer:
    """Several commands under one name; the name alone runs the first."""
    group = typer.Typer(
        cls=Group,
        add_completion=False,
        rich_markup_mode=None,
        help=found.__doc__,
        epilog=examples(found.EXAMPLES),
    )
    _, first, _ = found.COMMANDS[0]
    alone = command(first, found.NAME)

    def without_name(ctx: typer.Context, **given: Any) -> Outcome | None:
        if ctx.invoked_subcommand is None:
            return alone(ctx, **given)
        env = ctx.find_object(Environment)
        assert env is not None
        absorb(env, given)
        return None

    group.callback(invoke_without_command=True)(signed(without_name, shared_parameters()))
    for name, function, lines in found.COMMANDS:
        _add(group, function, name, lines, prefix=f"{found.NAME} ")
    return group


def _add(app: typer.Typer, function: Any, name: str, lines: str, prefix: str = "") -> None:
    app.command(name, cls=Command, epilog=examples(lines))(command(function, prefix + name))


def run(argv: Sequence[str], env: Environment) -> int:
    """Runs one invocation (parse, do, tell) and returns the exit code. Nothing escapes but the
    interpreter's own exit.
    """
    code = _run(argv, env)
    env.give_way()
    env.tell_of_lost_answer()
    return code


def _run(argv: Sequence[str], env: Environment) -> int:
    env.argv = tuple(argv)
    try:
        env.take_rank()
        refuse_odd_bytes(env)
        outcome = command_tree().main(
            args=list(argv), standalone_mode=False, obj=env, prog_name="kd"
        )
    except SystemExit as ended:  # typer's completion ends the process itself
        return int(ended.code or 0)
    except BaseException as error:  # noqa: BLE001  the one place where errors end
        outcome = explain(error, env)
    # typer's own exits: help, version, completion; and Ctrl-C, which it turns into 130
    if not isinstance(outcome, Outcome):
        if outcome != Exit.INTERRUPTED:
            return int(outcome or 0)
        outcome = explain(KeyboardInterrupt(), env)
    if env.settings.json and not env.rank:
        env.stdout.write(dumps(envelope(env.command, outcome), ascii_only=not env.unicode))
        env.stdout.flush()
    return int(outcome.exit_code)
