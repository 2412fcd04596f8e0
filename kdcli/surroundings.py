"""What surrounds this process and is not kd's: variables that torchrun sets, home folders, the
working directory, and what libraries say.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from kdcli.errors import UsageError

USER_MODULE = "kdcli_user_"
"""How the names of modules begin that are files of the user's."""


def started_rank(environ: Mapping[str, str]) -> tuple[int, int]:
    """The rank of this process and the number of ranks, as torchrun says it: (0, 1) where it says
    nothing.

    Raises:
        UsageError: a variable of torchrun's does not hold what it should.
    """
    size, rank = number_in(environ, "WORLD_SIZE", 1), number_in(environ, "RANK", 0)
    number_in(environ, "MASTER_PORT", 0)
    if size > 1 and rank >= size:
        raise UsageError(f"RANK is {rank}, and WORLD_SIZE {size}: ranks count from 0", hint=_UNSET)
    return (rank, size) if size > 1 else (0, 1)


_UNSET = "torchrun sets them; unset RANK WORLD_SIZE where it did not start kd"


def number_in(environ: Mapping[str, str], name: str, default: int) -> int:
    """The whole number that a variable of torchrun's holds; `default` where it is not set.

    Raises:
        UsageError: it holds something else.
    """
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"the variable {name} is {text[:40]!r}, which is no number", hint=_UNSET)
    return int(text)


def at_home(path: str | Path) -> Path:
    """A path with ~ replaced by the home folder that it means.

    Raises:
        UsageError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{path}: this machine knows no such home folder", hint="write the path without ~"
        ) from error


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Folder of what can be computed again: $KD_CACHE_DIR, else ~/.cache/kdcli."""
    return at_home(environ.get("KD_CACHE_DIR") or "~/.cache/kdcli")


def check_working_directory() -> None:
    """Refuses to work where there is no folder any more.

    Raises:
        UsageError: the working directory was removed.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            "the working directory is gone: it was removed while this shell was in it",
            hint="change to a folder that exists",
        ) from error


def hush_libraries() -> None:
    """Keeps what matplotlib, Pillow, torch and others warn of off the screen, in this process and
    those that it starts; warnings of the user's own files are shown. With KD_DEBUG or -W, nothing
    is kept back.
    """
    if sys.warnoptions or os.environ.get("KD_DEBUG", "") not in {"", "0"}:
        return
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=USER_MODULE)
    for library in ("matplotlib", "PIL"):
        logging.getLogger(library).setLevel(logging.ERROR)
    os.environ.setdefault("TORCH_LOGS", "-all")  # errors only
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
