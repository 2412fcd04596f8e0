"""Errors as people read them: what is wrong, where, what to do; all problems of a recipe at once,
each under its line.
"""

from __future__ import annotations

import re
import shlex
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from kdcli.cli.console import Environment
from kdcli.cli.output import github
from kdcli.cli.output.envelope import ErrorItem, Outcome, items_of
from kdcli.errors import (
    Diagnostic,
    Exit,
    Interrupted,
    KdError,
    NonFiniteLoss,
    RankLost,
    RecipeInvalid,
    Untrusted,
    UsageError,
    Where,
    shortened,
)

# typer's own parse errors: click's class, which newer versions of typer carry inside
_ParseError: Any = typer.BadParameter.__base__
PLACE_COLUMN = 68  # where the place of a problem stands that needs no excerpt
LONGEST_LINE = 160  # of a recipe, as it is quoted
# as long as another rank waits at most for the first to say what both have met
FIRST_SPEAKS_SECONDS = 10.0
_COMMAND = re.compile(r"(?:kd ([a-z-]+)(?: (?:ls|show|cp)\b)?|(?=--?[a-z]))(.*?)(?:,|;|  |$)")
_NAMES = frozenset(
    path.stem.replace("_", "-") for path in (Path(__file__).parents[1] / "commands").glob("*.py")
)
_WORD = re.compile(r"[a-z]+")


def explain(error: BaseException, env: Environment) -> Outcome:
    """Says on stderr what went wrong, and returns the outcome: the only mapping of exceptions to
    exit codes.
    """
    if isinstance(error, _ParseError):
        return (
            _explain_parse_error(error, env)
            if not env.rank
            else _leave_it_to_the_first(Outcome(exit_code=Exit.USAGE))
        )
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        error = Interrupted("interrupted")
    known = error if isinstance(error, KdError) else KdError.unforeseen(error)
    if isinstance(known, Untrusted):
        known.hint = _with_trust(env.argv)
    if env.rank and not _alone(known):
        return _leave_it_to_the_first(Outcome.failure(items_of(known), known.exit_code))
    show_error(known, env)
    _show_traceback(error, env)
    items = items_of(known)
    github.annotate(env, items)
    return Outcome.failure(items, known.exit_code)


def _with_trust(argv: Sequence[str]) -> str:
    """The command that was typed, and that it may run what it names."""
    end = argv.index("--") if "--" in argv else len(argv)
    return shlex.join(["kd", *argv[:end], "--trust", *argv[end:]])


def _alone(error: KdError) -> bool:
    """Tells whether an error of another rank than the first is worth a word: the first says what it
    has in common, and who was lost.
    """
    return error.exit_code == Exit.FAILURE and not isinstance(error, RankLost | NonFiniteLoss)


def _leave_it_to_the_first(outcome: Outcome) -> Outcome:
    """Waits for the first rank to speak and end: torchrun stops all the others, this one too, as
    soon as any has ended with an error.
    """
    if outcome.exit_code not in {Exit.INTERRUPTED, Exit.TERMINATED}:  # these came to all at once
        time.sleep(FIRST_SPEAKS_SECONDS)
    return outcome


def _explain_parse_error(error: Any, env: Environment) -> Outcome:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "kd"
    env.command = env.command or path.removeprefix("kd").strip()
    env.settings.json = (
        env.settings.json
        or "--json" in env.argv[: env.argv.index("--") if "--" in env.argv else None]
    )
    message = shortened(error.format_message().rstrip("."))
    item = ErrorItem(UsageError.code, message[:1].lower() + message[1:], f"{path} --help")
    env.complain(("error: ", "bold red"), item.message)
    env.complain(f"  try:  {item.hint}")
    github.annotate(env, (item,))
    return Outcome.failure([item], Exit.USAGE)


def show_error(error: KdError, env: Environment) -> None:
    """Says on stderr what is wrong, where, and what to do."""
    if error.exit_code in {Exit.INTERRUPTED, Exit.TERMINATED}:
        env.complain((f"{error.message}", "bold yellow"))
        if error.hint:
            env.complain(f"  continue:  {error.hint}")
        return
    whose = f"rank {env.rank}: " if env.rank else ""
    env.complain(("error: ", "bold red"), f"{whose}{error.message}")
    if isinstance(error, RecipeInvalid):
        for problem in error.diagnostics:
            _show_problem(problem, env)
    elif error.where is not None and str(error.where):
        env.complain(f"  at    {error.where}")
    if error.hint:
        for line in _hint_lines(error.hint):
            env.complain(line)
    if error.crash_file is not None:
        env.complain(f"  traceback  {error.crash_file}")


def _hint_lines(hint: str) -> list[str]:
    """A hint that is a command is something to try; one that is a sentence stands for itself."""
    label = "  try:  " if _is_command(hint) else "  "
    first, *rest = hint.splitlines()
    return [f"{label}{first}", *(f"{' ' * len(label)}{line}" for line in rest)]


def _is_command(hint: str) -> bool:
    """Tells a command, perhaps with a remark behind a comma, from a sentence that begins like one:
    "kd models NAME", and "kd models lists them all".
    """
    found = _COMMAND.match(hint)
    if found is None or (found[1] and found[1] not in _NAMES):
        return False
    words = found[2].split()
    before = ["", *words]
    prose = [
        word
        for word, last in zip(words, before, strict=False)
        if _WORD.fullmatch(word) and not last.startswith("-")
    ]
    return len(prose) < 2


def _show_problem(problem: Diagnostic, env: Environment) -> None:
    """One problem: under its line of the file where there is something to point out, else on one
    line with its place.
    """
    where = problem.where
    env.complain()
    if (
        problem.hint
        and where is not None
        and where.line
        and where.column
        and problem.source_line is not None
    ):
        _show_excerpt(problem, where, where.column, env)
        return
    place = str(where) if where is not None and where != Where(key=problem.key) else ""
    headline = f"  {problem.key}: {problem.problem}" if problem.key else f"  {problem.problem}"
    env.complain(
        headline,
        " " * max(2, min(PLACE_COLUMN, env.width - len(place)) - len(headline)) if place else "",
        (place, "dim"),
    )
    if problem.hint:
        env.complain(f"    {problem.hint}")


def _show_excerpt(problem: Diagnostic, where: Where, column: int, env: Environment) -> None:
    margin = " " * len(str(where.line))
    env.complain("  ", (problem.key, "bold"), f"{': ' if problem.key else ''}{problem.problem}")
    env.complain((f"  {margin} ╭─ {where}", "dim"))
    source, start = _window(problem.source_line or "", column)
    env.complain((f"  {where.line} │ ", "dim"), source)
    room = max(len(source) - start, 1)
    underline = " " * start + "─" * min(max(problem.length, 1), room)
    env.complain((f"  {margin} │ ", "dim"), (underline, "red"), f"  {problem.hint}")


def _window(line: str, column: int) -> tuple[str, int]:
    """The part of a line around a column, as long as a person reads, and where in it that is."""
    if len(line) <= LONGEST_LINE:
        return line, column - 1
    begin = max(0, column - 1 - LONGEST_LINE // 4)
    before = "..." if begin else ""
    part = line[begin : begin + LONGEST_LINE]
    after = "..." if begin + LONGEST_LINE < len(line) else ""
    return f"{before}{part}{after}", len(before) + column - 1 - begin


def _show_traceback(error: BaseException, env: Environment) -> None:
    if env.settings.debug:
        for line in "".join(traceback.format_exception(error)).rstrip().split("\n"):
            env.complain(line)
