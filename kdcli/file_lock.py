"""Locks on files, which end with the process that holds them, however that ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


def locked(path: Path, *, wait: bool = False) -> BaseFileLock | None:
    """The lock on a file, held by this process; None if another holds it.

    Args:
        wait: until the other has let go of it; a signal ends that.
    """
    from filelock import FileLock, Timeout

    # a soft lock, which is a file that exists, would outlive a killed process
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError:
        pass  # a file system that knows no locks: as it would be without them
    return lock
