"""The document that `--json` prints: one with a version, the same keys on success and failure. Keys
are only ever added.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdcli import clean
from kdcli.errors import Diagnostic, Exit, KdError, RecipeInvalid, Where
from kdcli.files import finite

if TYPE_CHECKING:
    from kdcli.results.measures import GateResult

VERSION = 1
Status = Literal["ok", "gate_failed", "failed", "usage", "incomplete", "interrupted"]

STATUS: dict[Exit, Status] = {
    Exit.OK: "ok",
    Exit.FAILURE: "failed",
    Exit.USAGE: "usage",
    Exit.GATE: "gate_failed",
    Exit.INCOMPLETE: "incomplete",
    Exit.INTERRUPTED: "interrupted",
    Exit.TERMINATED: "interrupted",
}


@dataclass(frozen=True, slots=True)
class ErrorItem:
    """One problem. code: a stable string to act on. where: the place in a file or on the command
    line.
    """

    code: str
    message: str
    hint: str | None = None
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a command: its answer, and how the process exits."""

    data: Any = None
    gates: tuple[GateResult, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[ErrorItem, ...] = ()
    exit_code: Exit = Exit.OK

    @classmethod
    def of(cls, result: Any, warnings: Iterable[str] = ()) -> Outcome:
        """The outcome of a job, whose gates decide between 0 and 3; `warnings` are beside its
        own.
        """
        gates: tuple[GateResult, ...] = getattr(result, "gates", ())
        passed = all(gate.passed for gate in gates)
        return cls(
            result,
            gates,
            (*getattr(result, "warnings", ()), *warnings),
            exit_code=Exit.OK if passed else Exit.GATE,
        )

    @classmethod
    def failure(cls, errors: Iterable[ErrorItem], exit_code: Exit) -> Outcome:
        """The outcome of what did not get through."""
        return cls(errors=tuple(errors), exit_code=exit_code)


def items_of(error: KdError) -> tuple[ErrorItem, ...]:
    """The problems that an error stands for: a recipe's come one by one."""
    if isinstance(error, RecipeInvalid) and error.diagnostics:
        return tuple(_item_of(error.code, problem) for problem in error.diagnostics)
    return (ErrorItem(error.code, error.message, error.hint, error.where),)


def _item_of(code: str, problem: Diagnostic) -> ErrorItem:
    where = dataclasses.replace(problem.where or Where(), key=problem.key)
    return ErrorItem(code, f"{problem.key}: {problem.problem}", problem.hint, where)


def plain(value: Any) -> Any:
    """A result as JSON-able values: dataclasses as objects, paths as strings, non-finite numbers as
    null.
    """

    def convert(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return {
                field.name: convert(getattr(item, field.name)) for field in dataclasses.fields(item)
            }
        if isinstance(item, dict):
            return {str(key): convert(entry) for key, entry in item.items()}
        if isinstance(item, list | tuple | set | frozenset):
            return [convert(entry) for entry in item]
        return str(item) if isinstance(item, Path) else item

    return finite(convert(value))


def envelope(command: str, outcome: Outcome) -> dict[str, Any]:
    """The document of one invocation."""
    return {
        "kd": VERSION,
        "command": command,
        "status": STATUS[outcome.exit_code],
        "exit_code": int(outcome.exit_code),
        "data": plain(outcome.data),
        "gates": plain(outcome.gates),
        "errors": plain(outcome.errors),
        "warnings": list(outcome.warnings),
    }


def dumps(document: dict[str, Any], *, ascii_only: bool) -> str:
    """The document as text, ending in a newline. Nothing of it is lost: what could command a
    terminal is escaped.
    """
    text = json.dumps(document, indent=2, ensure_ascii=ascii_only, allow_nan=False)
    return clean.text(text) + "\n"
