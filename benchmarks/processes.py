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

# the command as typed, but that it ends when the first optimiser step is done, and says how long
# ago torch had been imported
_UNTIL_FIRST_STEP = f"""
import os
import sys
import time
from importlib.machinery import PathFinder

class Watching:
    def find_spec(self, name, path=None, target=None):
        if name not in watched:
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), watched[name](module))
        return spec

def note(torch):
    ends.append(time.perf_counter())

def patch(steps):
    take = steps.Steps.take
    def first(*arguments):
        take(*arguments)
        print(time.perf_counter() - ends[0], flush=True)
        os._exit({FIRST_STEP})
    steps.Steps.take = first

ends = []
watched = dict([("torch", note), ("kdcli.engine.steps", patch)])
sys.meta_path.insert(0, Watching())
from kdcli.__main__ import main
main()
"""


def seconds_of(arguments: Sequence[str]) -> float:
    """Wall time of one process of this interpreter.

    Raises:
        RuntimeError: it failed; its last words are in the message.
    """
    start = time.perf_counter()
    _output_of(arguments)
    return time.perf_counter() - start


def _with_cache(cache: Path) -> dict[str, str]:
    """Variables for a process all that kd and torch's compiler keep for which is in a folder."""
    return {"KD_CACHE_DIR": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}


def seconds_to_first_step(recipe: Path, out: Path, cache: Path) -> tuple[float, float]:
    """From the start of `kd distill RECIPE` until its first step is done, and until then from the
    moment when torch had been imported. The run is left unfinished under `out`.
    """
    command = ["distill", str(recipe), "--out", str(out), "--quiet"]
    start = time.perf_counter()
    said = _output_of(["-c", _UNTIL_FIRST_STEP, *command], _with_cache(cache), FIRST_STEP)
    return time.perf_counter() - start, float(said.splitlines()[-1])


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
