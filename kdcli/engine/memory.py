"""Memory: kept where giving it back costs time, and its lack told in one sentence."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdcli.errors import OutOfMemory

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_memory(free: int = 2**31 - 1, block: int = 2**30) -> None:
    """Have glibc keep the memory that tensors give back, for the whole process; elsewhere nothing
    happens.

    By default it returns large blocks to the system, and every step has the same pages mapped and
    cleared again: thousands of faults a step, an eighth of the time of a small network's.

    Args:
        free: bytes that it keeps at the end of the heap. block: bytes from which on a block is
            mapped by itself, and given back when freed.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, free)
        # the most that older ones take
        mallopt(_M_MMAP_THRESHOLD, block) or mallopt(_M_MMAP_THRESHOLD, 2**25)


@contextmanager
def memory_errors(device: torch.device, context: str, remedy: str) -> Iterator[None]:
    """Turns torch's out-of-memory errors into one sentence.

    Args:
        context: what was running. remedy: what to set.

    Raises:
        OutOfMemory: with both.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"out of memory on {device} {context}", hint=remedy) from error
    except RuntimeError as error:
        if "not enough memory" not in str(error):  # what the CPU allocator says
            raise
        raise OutOfMemory(f"out of memory on {device} {context}", hint=remedy) from error
