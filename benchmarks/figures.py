"""The arithmetic of the benchmarks' measurements: medians, spreads, ratios round by round,
verdicts, and the file they go to.
"""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BUSY = 0.5  # load average from which on somebody else is probably computing


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the largest of its values."""

    median: float
    low: float
    high: float

    def show(self, digits: int = 0) -> str:
        """For a table: the median, then the range."""
        return (
            f"{self.median:8,.{digits}f}  {f'{self.low:,.{digits}f} - {self.high:,.{digits}f}':>17}"
        )


def spread(values: Sequence[float]) -> Spread:
    """Median and range of one or more values."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Timed:
    """Images that were trained on, and how long it took."""

    images: int
    seconds: float

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds


Segment = Callable[[], Timed]


def in_turn(segments: Mapping[str, Segment], rounds: int) -> dict[str, list[float]]:
    """Images/s of each segment in each round; every other round goes backwards, so that none always
    follows the same one.
    """
    taken: dict[str, list[float]] = {name: [] for name in segments}
    for number in range(rounds):
        for name in list(segments)[:: 1 if number % 2 == 0 else -1]:
            taken[name].append(segments[name]().speed)
    return taken


@dataclass(frozen=True, slots=True)
class Ratio:
    """One speed over another. rounds: the ratio within each round, which a slow moment of the
    machine changes least.

    least: what the median must reach; None where nothing is required.
    """

    name: str
    rounds: tuple[float, ...]
    least: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def verdict(self) -> str:
        """Tells whether it is ok or short, or nothing where nothing is required."""
        return "" if self.least is None else "ok" if self.median >= self.least else "short"

    def show(self) -> str:
        """For a table: the median, its range, and what is required."""
        text = f"{self.median:6.2f}  {f'{min(self.rounds):.2f} - {max(self.rounds):.2f}':>13}"
        return f"{text}  {self.verdict:5} (>= {self.least:g})" if self.least is not None else text

    def to_json(self) -> dict[str, Any]:
        """All that `show` shows, and the rounds."""
        values = spread(self.rounds)
        return {
            "median": values.median,
            "low": values.low,
            "high": values.high,
            "least": self.least,
            "verdict": self.verdict or None,
            "rounds": list(self.rounds),
        }


def ratio(
    name: str, over: Sequence[float], under: Sequence[float], least: float | None = None
) -> Ratio:
    """Of two speeds that were measured in the same rounds."""
    return Ratio(name, tuple(a / b for a, b in zip(over, under, strict=True)), least)


def cpu_model() -> str:
    """The processor as it calls itself, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load() -> float | None:
    """Processes that wanted to run during the last minute, on average; None where the system does
    not tell.
    """
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def machine() -> dict[str, Any]:
    """What a number must be read with: versions, commit, processor, threads, and how busy the
    machine is.
    """
    import torch

    from kdcli.jobs.train.environment import environment

    return {
        **environment(
            shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
        ),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": load(),
    }


def show_machine(facts: dict[str, Any]) -> None:
    """The first lines of a benchmark's output."""
    git = facts["git"] or {"commit": "unknown", "dirty": False}
    commit = git["commit"][:9] + ("+changes" if git["dirty"] else "")
    where = facts["gpu"] or f"{facts['cpu']}, {facts['threads']} threads of {facts['cores']} cores"
    print(f"kd {facts['kdcli']} at {commit}, torch {facts['torch']}, {where}")
    if facts["load_before"] is not None and facts["load_before"] > BUSY:
        print(
            f"the machine is busy (load {facts['load_before']:.2f}): ratios are rough, "
            "speeds are not worth quoting; see README.md beside this"
        )
    print(flush=True)


def keep(name: str, facts: dict[str, Any], results: dict[str, Any], path: Path | None) -> None:
    """Write what was measured to `path`, or to benchmarks/results/NAME.json, and say where.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    from kdcli.files import write_json

    target = path or RESULTS / f"{name}.json"
    write_json(
        target, {"benchmark": name, "environment": {**facts, "load_after": load()}, **results}
    )
    print(f"\nwritten: {target}")
