"""Decides whether a job's networks are compiled, with the reason: `runtime.compile`."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from kdcli.core.method import Method
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.engine import hardware
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime
from kdcli.errors import KdError, UsageError
from kdcli.files import read_json, sha256_json, write_json
from kdcli.results.tuning import GAIN, TunedNetwork
from kdcli.surroundings import cache_root
from kdcli.typed import from_dict

Wanted = Literal["auto", "on", "off"]

# steps after which compiling has paid for itself, on two cores with AMX: with nothing, and with the
# code on the disk. Without AMX compiled students were no faster, small ones up to a third slower
# (docs/results/speed.md)
COLD_STEPS = 1100
WARM_STEPS = 170
_OTHERS = 200  # files that are read for the time that compiling takes
_LONGEST = 86_400.0  # seconds: no file that says more is believed


def prepare_cache() -> None:
    """Lets inductor keep what it compiles beside kd's other caches, unless the user said where.
    Before anything is compiled.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))


def choose(
    wanted: Wanted,
    runtime: Runtime,
    steps: int,
    seen: Path,
    measured: tuple[TunedNetwork, str] | None = None,
) -> Choice:
    """Resolves "auto": compile where the job is long enough to repay it.

    Args:
        steps: minibatches of the whole job.
        seen: what `mark` leaves where these networks have been compiled before.
        measured: a network like the one to be trained, as it was measured on this machine, and on
            what day.

    Raises:
        UsageError: it was asked for, and this machine cannot.
    """
    lacking = _lacking(runtime)
    if wanted == "on" and lacking:
        raise UsageError(
            f"runtime.compile is on, but this machine has {lacking}",
            hint='install it, or runtime.compile = "auto"',
        )
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if runtime.device.type != "cpu":
        return Choice(
            "off", f"auto: never on {runtime.device.type}, where it has not been measured"
        )
    if lacking:
        return Choice("off", f"auto: {lacking} here")
    if measured is not None and measured[0].compiled is not None:
        return _by_measure(*measured, steps)
    if hardware.cpu_unit() != "AMX":
        return Choice("off", "auto: gains nothing on a CPU without AMX")
    warm = seen.exists()
    least = WARM_STEPS if warm else COLD_STEPS
    state = "compiled before" if warm else "never compiled here"
    pays = f"pays from {least} steps on, {state}; this job has {steps}"
    return Choice("on" if steps >= least else "off", f"auto: {pays}")


def _by_measure(network: TunedNetwork, date: str, steps: int) -> Choice:
    """Compile where a network like this one gained by it, and the job repays it."""
    plain, compiled = network.ways[0].images_per_second, network.compiled or 0.0
    told = f"auto: measured here on {date}, {compiled / plain:.2f} times as fast with one like"
    if compiled < GAIN * plain:
        return Choice("off", f"{told} {network.name}")
    saved = network.batch / plain - network.batch / compiled  # seconds a step
    least = math.ceil((network.compile_seconds or 0.0) / saved)
    pays = f"{told} {network.name}: it pays from {least} steps on, and this job has {steps}"
    return Choice("on" if steps >= least else "off", pays)


def _lacking(runtime: Runtime) -> str:
    """What is missing to compile, as a part of a sentence; empty if nothing is."""
    if runtime.device.type == "cuda":
        return "" if torch.utils._triton.has_triton() else "no triton"  # noqa: SLF001
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "no C++ compiler"
    return (
        "" if Path(sysconfig.get_path("include"), "Python.h").exists() else "no headers of Python"
    )


def steps_of(method: Method, epochs: int, batches: int) -> int:
    """Minibatches of all stages."""
    return sum(stage.epochs or epochs for stage in method.stages()) * batches


def seen_path(
    method: Method, teachers: Sequence[Teacher], shape: Sequence[int], runtime: Runtime
) -> Path:
    """The file that says that these networks have been compiled for these minibatches. shape:
    [B,C,H,W].
    """
    networks = [part for part in method.modules() if isinstance(part, Network)] + [
        teacher.network for teacher in teachers
    ]
    key = {
        "method": type(method).__name__,
        "networks": [[type(network).__name__, network.blueprint] for network in networks],
        "shape": list(shape),
        "runtime": [
            str(runtime.device),
            runtime.precision_choice.value,
            runtime.teacher_choice.value,
            runtime.channels_last,
            runtime.threads,
        ],
        "torch": torch.__version__,
    }
    return cache_root() / "compiled" / f"{sha256_json(key)[:32]}.json"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a file of the cache remembers of networks that have been compiled here.

    cold, warm: seconds of the first step, when nothing was compiled yet and when the code lay on
    the disk; None where it has not been seen, or not timed.
    """

    torch: str
    cold: float | None = None
    warm: float | None = None


def mark(seen: Path, choice: Choice, seconds: float | None = None) -> None:
    """Remembers that the first step has been compiled, if it was. Nothing depends on it but the
    next choice, and what is said of the time.

    Args:
        seconds: what the first step took with it.
    """
    if choice.value != "on":
        return
    before = _remembered(seen)
    now = (
        Compiled(torch.__version__, seconds)
        if before is None
        else replace(before, warm=seconds or before.warm)
    )
    if now == before:
        return
    try:
        seen.parent.mkdir(parents=True, exist_ok=True)
        write_json(seen, now)
    except (OSError, KdError):  # a choice is not worth an error
        return


def expected_seconds(seen: Path) -> float | None:
    """How long the first step is likely to take: as long as it took with these networks before, or
    as others took with this version of torch (their median); None where nothing tells.
    """
    before = _remembered(seen)
    if before is not None:
        return before.warm or before.cold
    others = sorted(seen.parent.glob("*.json"))[:_OTHERS] if seen.parent.is_dir() else []
    cold = [
        other.cold
        for other in map(_remembered, others)
        if other is not None and other.cold is not None and other.torch == torch.__version__
    ]
    return statistics.median(cold) if cold else None


def _remembered(seen: Path) -> Compiled | None:
    """What a file remembers; None where there is none, or it is no such file."""
    try:
        found = from_dict(Compiled, read_json(seen), seen)
    except KdError:
        return None
    times = (found.cold, found.warm)
    return found if all(time is None or 0 < time < _LONGEST for time in times) else None
