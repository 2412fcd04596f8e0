"""Makes a function a command: it gains the global options, hands back an Outcome, and its help ends
with examples.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer

from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.surroundings import check_working_directory

GLOBAL = "Global options (before or after the command)"
_COLORS = ("auto", "always", "never")


def _option(*names: str, text: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=GLOBAL, show_default=False, **more)


def _show_version(ctx: typer.Context, value: bool) -> None:  # noqa: FBT001  typer passes it so
    if value and not ctx.resilient_parsing:
        from kdcli import __version__

        ctx.find_object(Environment).stdout.write(f"kd {__version__}\n")  # type: ignore[union-attr]
        raise typer.Exit


def _known_color(value: str | None) -> str | None:
    if value is not None and value not in _COLORS:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(_COLORS)}.")
    return value


SHARED: dict[str, tuple[Any, Any]] = {
    "json": (
        Annotated[bool, _option("--json", text="One JSON document on stdout, also on failure.")],
        False,
    ),
    "quiet": (
        Annotated[int, _option("-q", "--quiet", text="No progress; -qq: errors only.", count=True)],
        0,
    ),
    "verbose": (Annotated[bool, _option("-v", "--verbose", text="Say more.")], False),
    "color": (
        Annotated[
            str | None,
            _option(
                "--color",
                text="auto, always or never; also NO_COLOR, FORCE_COLOR.",
                metavar="WHEN",
                callback=_known_color,
            ),
        ],
        None,
    ),
    "debug": (Annotated[bool, _option("--debug", text="Tracebacks; also KD_DEBUG=1.")], False),
    "version": (
        Annotated[
            bool,
            _option(
                "--version",
                text="Show the version and exit.",
                is_eager=True,
                callback=_show_version,
            ),
        ],
        False,
    ),
}
"""The global options: name, (annotation, default)."""


def shared_parameters() -> list[inspect.Parameter]:
    """The global options as parameters of a function."""
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
        )
        for name, (annotation, default) in SHARED.items()
    ]


def absorb(env: Environment, given: dict[str, Any]) -> dict[str, Any]:
    """Merges the global options among `given` into the environment; the rest comes back."""
    common = {
        key: given.get(key, default) for key, (_, default) in SHARED.items() if key != "version"
    }
    env.merge(**common)
    return {key: value for key, value in given.items() if key not in SHARED}


def command(function: Callable[..., Outcome], name: str) -> Callable[..., Outcome]:
    """A function of (env, its own options) as typer wants it: with a context, and with the global
    options at the end.
    """

    @functools.wraps(function)
    def run(ctx: typer.Context, **given: Any) -> Outcome:
        env = ctx.find_object(Environment)
        assert env is not None
        env.command = name
        check_working_directory()
        own = absorb(env, given)
        env.begin()
        return function(env, **own)

    return signed(run, [*own_parameters(function), *shared_parameters()])


def own_parameters(function: Callable[..., Outcome]) -> Iterator[inspect.Parameter]:
    """A command's own parameters but the environment: its arguments, the flags that it shares with
    others (kdcli.cli.options.takes), then what only it has.
    """
    _, *written = inspect.signature(function, eval_str=True).parameters.values()
    flags: Mapping[str, Any] = getattr(function, "flags", {})
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None)
        for name, annotation in flags.items()
    ]
    for parameter in written:
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    yield from shared
    for parameter in written:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            yield parameter


def signed(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    """The function with a context and these parameters as the signature that typer reads."""
    context = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    function.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    function.__annotations__ = {
        parameter.name: parameter.annotation for parameter in (context, *parameters)
    }
    return function


def examples(lines: str) -> str:
    """The end of a command's help: examples that run as they are, kept line by line."""
    body = "\n".join(f"  {line}" for line in lines.strip().splitlines())
    return f"\b\nExamples:\n{body}"
