"""What data may ask of a machine, checked before it is asked."""

from __future__ import annotations

import os
from pathlib import Path

from kdcli.errors import UsageError


def check_memory(needed: int, most_gb: float, what: str, hint: str) -> None:
    """Refuses data that would not fit.

    Args:
        needed: bytes. most_gb: the bound that a recipe sets. what: the data, for messages.
        hint: how to need less.

    Raises:
        UsageError: it is more than the bound, or than the memory that is free.
    """
    if needed > most_gb * 1e9:
        raise UsageError(
            f"{what} would take {needed / 1e9:,.1f} GB, more than data.max_gb = {most_gb:g}",
            hint=f"{hint}, or raise data.max_gb",
        )
    free = _free_memory()
    if needed > free:
        raise UsageError(
            f"{what} would take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of memory "
            "are free",
            hint=hint,
        )


def _free_memory() -> int:
    """Bytes that may be taken, as far as the system tells; else all that it has."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
