"""The numbers of a run by dotted path, `test.accuracy` or `gap.entropy`: what sweeps and
comparisons ask for, and how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable

from kdcli import formatting
from kdcli.catalog import suggest
from kdcli.errors import UsageError
from kdcli.results.metric_paths import paths
from kdcli.results.run import RunResult

_SHARES = ("accuracy", "top5", "train_accuracy", "teacher_accuracy", "low", "high")
_LOWER_IS_BETTER = (
    "nll",
    "ece",
    "entropy",
    "free_energy",
    "wall_seconds",
    "peak_memory_mib",
    "parameters",
)
_LABELS = {
    "test.accuracy": "accuracy, %",
    "test.top5": "top-5 accuracy, %",
    "test.nll": "NLL, nats",
    "test.ece": "ECE",
    "test.entropy": "entropy, nats",
    "test.free_energy": "free energy",
    "val.accuracy": "validation accuracy, %",
    "train_accuracy": "training accuracy, %",
    "excluded.accuracy": "accuracy on the missing class, %",
    "excluded.teacher_accuracy": "the teacher's accuracy on it, %",
    "reference.test.accuracy": "the teacher's accuracy, %",
    "reference.test.entropy": "the teacher's entropy, nats",
    "reference.test.free_energy": "the teacher's free energy",
    "gap.entropy": "entropy gap, nats",
    "gap.free_energy": "free-energy gap",
    "aligned_gap.entropy": "entropy gap in the loss, nats",
    "aligned_gap.free_energy": "free-energy gap in the loss",
    "wall_seconds": "wall time, s",
    "images_per_second": "images a second",
    "peak_memory_mib": "peak memory, MiB",
}


def check(path: str) -> str:
    """The path itself, if there is such a number.

    Raises:
        UsageError: there is none; the hint names the nearest one.
    """
    if path in paths():
        return path
    near = suggest(path, paths())
    hint = f"did you mean {near!r}?" if near else f"there are {', '.join(list(_LABELS))} and others"
    raise UsageError(f"{path!r} is not a number of a run", hint=hint)


def value(summary: RunResult | None, path: str) -> float | None:
    """The number at a path, or None where the run is not there or has no such measure.

    Raises:
        UsageError: no run has such a number.
    """
    found: object = summary
    for name in check(path).split("."):
        found = getattr(found, name, None)
    number = float(found) if isinstance(found, int | float) else None
    return number if formatting.known(number) else None


def is_share(path: str) -> bool:
    """Tells whether the number is a fraction that pages show as a percentage."""
    return path.rpartition(".")[2] in _SHARES


def label(path: str) -> str:
    """The name of a metric in a heading, with its unit."""
    return _LABELS.get(path, path.replace("_", " ") + (", %" if is_share(path) else ""))


def closeness(path: str) -> Callable[[float], float]:
    """A key whose largest value is the best one. A gap is best at zero, from either side."""
    if path.startswith(("gap.", "aligned_gap.")):
        return lambda number: -abs(number)
    if path.rpartition(".")[2] in _LOWER_IS_BETTER:
        return lambda number: -number
    return lambda number: number


def digits(path: str, n: int) -> int:
    """Decimals that a heading's unit and n images justify."""
    if is_share(path):
        # a missing class is a small part of the n
        return formatting.percent_digits(0 if path.startswith("excluded.") else n)
    return {
        "wall_seconds": 1,
        "images_per_second": 0,
        "peak_memory_mib": 0,
        "parameters": 0,
        "seed": 0,
        "epochs": 0,
        "n": 0,
    }.get(path.rpartition(".")[2], 3)


def scaled(number: float, path: str) -> float:
    """The number in the unit of its label."""
    return 100 * number if is_share(path) else number
