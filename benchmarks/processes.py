"""Measurements that need a process of their own: the time to the first step, and the most memory
that a job takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIRST_STEP = 75  # exit code of a child that saw one

# the command as typed, but that it ends when the first optimiser step is done
_UNTIL_FIRST_STEP = f"""
import os
import sys
from kdcli import jobs
from kdcli.jobs.events import StepDone
distill = jobs.distill
stop = lambda event: os._exit({FIRST_STEP}) if isinstance(event, StepDone) else None
jobs.distill = lambda resolved, *, listeners=(), **rest: distill(
    resolved, listeners=[*listeners, stop], **rest
)
from kdcli.__main__ import main
main()
"""


def seconds_of(arguments: Sequence[str], *, cache: Path | None = None, ends_with: int = 0) -> float:
    """Wall time of one process of this interpreter.

    Args:
        cache: folder of all that kd and torch's compiler keep; this process's own unless given.

    Raises:
        RuntimeError: it ended with another exit code; its last words are in the message.
    """
    own = (
        {}
        if cache is None
        else {"KD_CACHE_DIR": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
    )
    start = time.perf_counter()
    _output_of(arguments, own, ends_with)
    return time.perf_counter() - start


def seconds_to_first_step(recipe: Path, out: Path, cache: Path) -> float:
    """From the start of `kd distill RECIPE` until its first step is done. The run is left
    unfinished under `out`.
    """
    return seconds_of(
        ["-c", _UNTIL_FIRST_STEP, "distill", str(recipe), "--out", str(out), "--quiet"],
        cache=cache,
        ends_with=FIRST_STEP,
    )


def summary_of(arguments: Sequence[str]) -> dict[str, Any]:
    """What a `kd` command says with --json, run in a process of its own.

    Raises:
        RuntimeError: it failed; its message is in the error's.
    """
    return summary_and_peak(arguments)[0]


def summary_and_peak(arguments: Sequence[str]) -> tuple[dict[str, Any], float]:
    """The same, and the most memory that the process had, MiB.

    Raises:
        RuntimeError: it failed; its message is in the error's.
    """
    command = [sys.executable, "-m", "kdcli", *arguments, "--quiet", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"kd {' '.join(arguments)} failed: {said[-1000:]}")
    data: dict[str, Any] = json.loads(said)["data"]
    return data, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def said_by(arguments: Sequence[str]) -> dict[str, float]:
    """Numbers that a process of this interpreter prints as JSON, by name.

    Raises:
        RuntimeError: it failed; its last words are in the message.
    """
    found: dict[str, float] = json.loads(_output_of(arguments).splitlines()[-1])
    return found


def _output_of(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, ends_with: int = 0
) -> str:
    """What a process of this interpreter prints. environment: variables besides this one's."""
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode != ends_with:
        raise RuntimeError(
            f"exit code {done.returncode} instead of {ends_with}: {done.stderr[-1000:]}"
        )
    return done.stdout


def resident_mib() -> float | None:
    """Memory of this process, MiB; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return int(status.split("VmRSS:")[1].split()[0]) / 2**10
