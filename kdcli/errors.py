"""Every failure that kd can name, and the exit code that each one means.

A message is one sentence in three parts, what is wrong, where, and what to do, so that a person can
act on it without reading a traceback, and a script can act on `code` and the exit status without
reading the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar


class Exit(IntEnum):
    """Process exit codes: a closed table that CI scripts may rely on."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    GATE = 3
    INCOMPLETE = 4
    INTERRUPTED = 130
    TERMINATED = 143


_LONGEST = 1000  # characters of a message


def shortened(text: str, most: int = _LONGEST) -> str:
    """A text with its middle left out where it is longer: a value from a file may be of any
    length.
    """
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 4 :]}"


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a file, or on the command line (`flag`: "--set a.b=2"). Lines and columns count
    from 1.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None
    key: str | None = None
    flag: str | None = None

    def __str__(self) -> str:
        numbers = ":".join(
            str(part) for part in (self.file, self.line, self.column) if part is not None
        )
        return numbers or self.flag or self.key or ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem of a recipe: the key, what is wrong with it, and what to write instead."""

    key: str
    problem: str
    hint: str | None = None
    where: Where | None = None
    source_line: str | None = None  # the text of the line, for the screen to underline
    length: int = 1  # how many characters of it the problem covers

    def __post_init__(self) -> None:
        for name, most in (("key", 120), ("problem", 500), ("hint", 500)):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, shortened(text, most))


class KdError(Exception):
    """Something that kd can explain.

    Args:
        message: what is wrong and where, lower case, without a full stop.
        hint: what to do about it, a command if there is one.
        where: the place in a file, if there is one.
        code: the stable string that JSON carries; the class's own unless given.
    """

    code: ClassVar[str] = "FAILURE"
    exit_code: Exit = Exit.FAILURE

    def __init__(
        self, message: str, *, hint: str | None = None, where: Where | None = None
    ) -> None:
        super().__init__(message)
        self.message = shortened(message)
        self.hint = hint if hint is None else shortened(hint)
        self.where = where
        self.crash_file: Path | None = None  # where the run kept the traceback

    def __str__(self) -> str:
        # which may have learned more on its way, such as the rank that it comes from
        return self.message

    @classmethod
    def unforeseen(cls, error: BaseException) -> KdError:
        """An error that nobody foresaw, as far as it can be told: its type and the first line of
        its text.
        """
        text = str(error).strip().partition("\n")[0]
        found = cls(
            f"{type(error).__name__}{': ' if text else ''}{text}",
            hint="this should not happen; --debug shows the traceback",
        )
        found.crash_file = getattr(error, "crash_file", None)
        return found


class UsageError(KdError):
    """The invocation is wrong: nothing has been started or written."""

    code = "USAGE"
    exit_code = Exit.USAGE


class RecipeInvalid(UsageError):
    """A recipe or override does not validate. Carries all its problems at once."""

    code = "RECIPE_INVALID"

    def __init__(
        self, message: str, diagnostics: Sequence[Diagnostic], *, hint: str | None = None
    ) -> None:
        first = diagnostics[0].where if diagnostics else None
        super().__init__(message, hint=hint, where=first)
        self.diagnostics = tuple(diagnostics)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.diagnostics), self.__dict__


class NotFound(UsageError):
    """A file, run, recipe, method, model or dataset that is not there."""

    code = "NOT_FOUND"


class BadCheckpoint(UsageError):
    """A checkpoint that the user named is damaged, or is not one of ours."""

    code = "BAD_CHECKPOINT"


class Incompatible(UsageError):
    """Teacher, student, data and method do not fit each other."""

    code = "INCOMPATIBLE"


class Untrusted(UsageError):
    """A Python file that the user has not named would have to run."""

    code = "UNTRUSTED"


class DeviceUnavailable(UsageError):
    """The device asked for is not on this machine."""

    code = "DEVICE_UNAVAILABLE"


class RunExists(UsageError):
    """The run directory asked for is there already; runs are never overwritten."""

    code = "RUN_EXISTS"


class NotWritable(UsageError):
    """The output folder cannot be written to."""

    code = "NOT_WRITABLE"


class DiskFull(KdError):
    """The disk filled up while the run was writing."""

    code = "DISK_FULL"


class WriteFailed(KdError):
    """A file of a run that was going on could not be written."""

    code = "WRITE_FAILED"


class CorruptFile(KdError):
    """A file that should be ours is truncated, is not what it claims, or fails its checksum. Seen
    before work begins; met in a run, it is a failure of the run.
    """

    code = "CORRUPT_FILE"
    exit_code = Exit.USAGE


class BadData(KdError):
    """A dataset file is there but cannot be used. Seen before work begins; met in a run, it is a
    failure of the run.
    """

    code = "BAD_DATA"
    exit_code = Exit.USAGE


class NonFiniteLoss(KdError):
    """A loss term became NaN or infinite; the last good state is kept."""

    code = "NAN_LOSS"


class OutOfMemory(KdError):
    """The device has no memory left for the batch size asked for."""

    code = "OUT_OF_MEMORY"


class RankLost(KdError):
    """One of several processes that train together ended before the others."""

    code = "RANK_LOST"


class Paused(KdError):
    """A run was left after as many epochs as it was asked for, its state saved: no failure."""

    code = "PAUSED"
    exit_code = Exit.OK
    run: str = ""  # its folder


class Interrupted(KdError):
    """The user stopped the run (Ctrl-C); its state is saved."""

    code = "INTERRUPTED"
    exit_code = Exit.INTERRUPTED


class Terminated(KdError):
    """The system stopped the run (SIGTERM, SIGUSR1); its state is saved."""

    code = "TERMINATED"
    exit_code = Exit.TERMINATED
