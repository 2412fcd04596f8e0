"""What stops a run that was going on because its files could not be written."""

from __future__ import annotations

from pathlib import Path

from kdcli.errors import CorruptFile, DiskFull, KdError, NotFound, NotWritable, WriteFailed
from kdcli.runs.folder import RECIPE_FILE, STATE_FOLDER

CAUSES = (CorruptFile, DiskFull, NotFound, NotWritable)
"""Errors of files that a run writes, or reads again."""


def check_there(run: Path) -> None:
    """Notices that a run's folder is gone.

    Raises:
        WriteFailed: it is.
    """
    if not (run / RECIPE_FILE).is_file():
        raise _removed(run)


def stopped_by(error: KdError, run: Path) -> KdError:
    """The error of a run in which one of its files could not be written, or is not there: how to go
    on depends on what is left.
    """
    if not (run / RECIPE_FILE).is_file():
        return _removed(run)
    if not isinstance(error, DiskFull | NotWritable):
        return error
    again = (
        f"kd resume {run}"
        if any((run / STATE_FOLDER).glob("state-*"))
        else "start the run again: no state had been saved"
    )
    if isinstance(error, DiskFull):
        return DiskFull(error.message, hint=f"free some space, then: {again}")
    return WriteFailed(error.message, hint=f"see to it that it can be written, then: {again}")


def _removed(run: Path) -> WriteFailed:
    return WriteFailed(f"{run} was removed while the run was going on", hint="start it again")
