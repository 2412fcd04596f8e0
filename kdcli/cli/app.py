"""The command tree, and the one place where what happened becomes an exit code."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import typer

from kdcli.cli import (
    analyze_gap,
    check,
    compare,
    datasets,
    distill,
    doctor,
    evaluate,
    methods,
    models,
    recipes,
    report,
    resume,
    schema,
    sweep,
    table,
    train_teacher,
)
from kdcli.cli.command import absorb, command, examples, shared_parameters, signed
from kdcli.cli.env import Environment
from kdcli.cli.envelope import Outcome, dumps, envelope
from kdcli.cli.failure import explain
from kdcli.cli.light import Command, Group
from kdcli.errors import Exit

PANELS: dict[str, tuple[ModuleType, ...]] = {
    "Train": (train_teacher, distill, resume, sweep),
    "Measure": (evaluate, analyze_gap, compare, table),
    "Explore": (methods, models, datasets, recipes),
    "Project": (check, schema, report),
    "System": (doctor,),
}
EXAMPLES = """
kd distill         # the quickstart: seconds, no download, no GPU
kd analyze-gap     # how far its student is from its teacher
"""


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


def build_app() -> typer.Typer:
    """The typer application: a command per module, a group per module that has several."""
    app = typer.Typer(cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False, epilog=examples(EXAMPLES))
    app.callback(invoke_without_command=True)(signed(_root, shared_parameters()))
    for panel, modules in PANELS.items():
        for module in modules:
            if hasattr(module, "COMMANDS"):
                app.add_typer(_group(module), name=module.NAME, rich_help_panel=panel)
            else:
                _add(app, module.run, module.NAME, module.EXAMPLES, rich_help_panel=panel)
    return app


@functools.cache
def command_tree() -> Any:
    """What the application parses with, made once a process."""
    return typer.main.get_command(build_app())


def _group(module: ModuleType) -> typer.Typer:
    """Several commands under one name; the name alone runs the first."""
    group = typer.Typer(cls=Group, rich_markup_mode=None, help=module.__doc__, epilog=examples(module.EXAMPLES))
    _, first, _ = module.COMMANDS[0]
    alone = command(first, module.NAME)

    def without_name(ctx: typer.Context, **given: Any) -> Outcome | None:
        return alone(ctx, **given) if ctx.invoked_subcommand is None else None

    group.callback(invoke_without_command=True)(signed(without_name, []))
    for name, function, lines in module.COMMANDS:
        _add(group, function, name, lines, prefix=f"{module.NAME} ")
    return group


def _add(app: typer.Typer, function: Any, name: str, lines: str, prefix: str = "", **more: Any) -> None:
    app.command(name, cls=Command, epilog=examples(lines), **more)(command(function, prefix + name))


def run(argv: Sequence[str], env: Environment) -> int:
    """Run one invocation: parse, do, tell, and return the exit code. Nothing escapes but the interpreter's own exit."""
    env.argv = tuple(argv)
    try:
        outcome = command_tree().main(args=list(argv), standalone_mode=False, obj=env, prog_name="kd")
    except SystemExit as ended:  # typer's completion ends the process itself
        return int(ended.code or 0)
    except BaseException as error:  # noqa: BLE001  the one place where errors end
        outcome = explain(error, env)
    if not isinstance(outcome, Outcome):  # typer's own exits: help, version, completion; and Ctrl-C, which it turns into 130
        if outcome != Exit.INTERRUPTED:
            return int(outcome or 0)
        outcome = explain(KeyboardInterrupt(), env)
    if env.settings.json:
        env.stdout.write(dumps(envelope(env.command, outcome), ascii_only=not env.unicode))
        env.stdout.flush()
    return int(outcome.exit_code)
