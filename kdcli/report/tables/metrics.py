"""The numbers of a run by dotted path, `test.accuracy` or `gap.entropy`: what sweeps and
comparisons ask for, and how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kdcli import formatting
from kdcli.catalog import suggest
from kdcli.errors import UsageError
from kdcli.results import metric_paths
from kdcli.results.gap import GapAt
from kdcli.results.measures import EnergyAt
from kdcli.results.run import RunResult

_SHARES = (
    "accuracy",
    "top5",
    "train_accuracy",
    "teacher_accuracy",
    "balanced_accuracy",
    "agreement",
    "low",
    "high",
)
_LOWER_IS_BETTER = (
    "nll",
    "perplexity",
    "ece",
    "entropy",
    "free_energy",
    "wall_seconds",
    "peak_memory_mib",
    "parameters",
    "macs",
    "size_bytes",
    "latency_1_ms",
    "latency_32_ms",
    "train_loss",
    "nll_before",
    "nll_after",
    "ece_before",
    "ece_after",
)
_LABELS = {
    "test.accuracy": "accuracy, %",
    "test.top5": "top-5 accuracy, %",
    "test.balanced_accuracy": "balanced accuracy, %",
    "test.macro_f1": "macro-F1",
    "test.nll": "NLL, nats",
    "test.ece": "ECE",
    "test.perplexity": "perplexity",
    "test.entropy": "entropy, nats",
    "test.free_energy": "free energy",
    "val.accuracy": "validation accuracy, %",
    "val.perplexity": "validation perplexity",
    "train_accuracy": "training accuracy, %",
    "train_loss": "training loss",
    "agreement": "agreement with the teacher, %",
    "test.agreement": "agreement where there are no labels, %",
    "val.agreement": "validation agreement, %",
    "teacher.test.accuracy": "the teacher's accuracy, %",
    "teacher.test.perplexity": "the teacher's perplexity",
    "teacher.test.entropy": "the teacher's entropy, nats",
    "teacher.test.free_energy": "the teacher's free energy",
    "calibration.temperature": "folded temperature",
    "excluded.accuracy": "accuracy on the missing class, %",
    "excluded.teacher_accuracy": "the teacher's accuracy on it, %",
    "reference.test.accuracy": "the teacher's accuracy, %",
    "reference.test.perplexity": "the teacher's perplexity",
    "reference.test.entropy": "the teacher's entropy, nats",
    "reference.test.free_energy": "the teacher's free energy",
    "gap.entropy": "entropy gap, nats",
    "gap.free_energy": "free-energy gap",
    "aligned_gap.entropy": "entropy gap in the loss, nats",
    "aligned_gap.free_energy": "free-energy gap in the loss",
    "cost.macs": "multiply-adds",
    "cost.size_bytes": "bytes on disk",
    "cost.latency_1_ms": "latency of 1 image, ms",
    "cost.latency_32_ms": "latency of 32 images, ms",
    "wall_seconds": "wall time, s",
    "images_per_second": "images a second",
    "peak_memory_mib": "peak memory, MiB",
}


def check(path: str) -> str:
    """The path itself, if there is such a number.

    Raises:
        UsageError: there is none; the hint names the nearest one.
    """
    if (told := metric_paths.complaint(path, suggest)) is not None:
        raise UsageError(told[0], hint=told[1])
    return path


def check_terms(path: str, summaries: Sequence[RunResult]) -> None:
    """Refuses a term of the loss that no run has, where some have others.

    Raises:
        UsageError: as said.
    """
    if not path.startswith(metric_paths.TERMS):
        return
    terms = dict.fromkeys(term for summary in summaries for term in summary.train_losses)
    wanted = path.removeprefix(metric_paths.TERMS)
    if terms and wanted not in terms:
        raise UsageError(
            f"{path!r}: no run of this table has a loss term {wanted!r}",
            hint=f"there are {', '.join(terms)}; train_loss is their sum",
        )


def value(summary: RunResult | None, path: str) -> float | None:
    """The number at a path, or None where the run is not there or has no such measure.

    Raises:
        UsageError: no run has such a number.
    """
    base, temperature = metric_paths.split(check(path))
    if summary is None:
        return None
    found: object = summary
    if base.startswith(metric_paths.TERMS):
        found = summary.train_losses.get(base.removeprefix(metric_paths.TERMS))
    elif temperature is None or temperature == 1.0:
        for name in base.split("."):
            found = getattr(found, name, None)
    else:
        found = _at(summary, base, temperature)
    number = float(found) if isinstance(found, int | float) else None
    return number if formatting.known(number) else None


def _at(summary: RunResult, base: str, temperature: float) -> float | None:
    """An entropy, a free energy or a gap at a temperature of the report other than 1; None at one
    that it does not have.
    """
    of, _, quantity = base.rpartition(".")
    raw = tuple(gap for gap in summary.gaps if not gap.aligned)
    taught = {"teacher.test": summary.teacher, "reference.test": summary.reference}
    records: Mapping[str, Sequence[EnergyAt | GapAt]] = {
        "test": summary.energies,
        "gap": raw,
        "aligned_gap": tuple(gap for gap in summary.gaps if gap.aligned) or raw,
        **{name: summary.teacher_energies if known else () for name, known in taught.items()},
    }
    return next(
        (getattr(item, quantity) for item in records[of] if item.temperature == temperature), None
    )


def is_share(path: str) -> bool:
    """Tells whether the number is a fraction that pages show as a percentage."""
    return _last(path) in _SHARES


def _last(path: str) -> str:
    return metric_paths.split(path)[0].rpartition(".")[2]


def label(path: str) -> str:
    """The name of a metric in a heading, with its unit."""
    base, temperature = metric_paths.split(path)
    if base.startswith(metric_paths.TERMS):
        return f"training loss, {base.removeprefix(metric_paths.TERMS)}"
    text = _LABELS.get(base, base.replace("_", " ") + (", %" if is_share(base) else ""))
    return text if temperature is None else f"{text}, τ = {formatting.temperature(temperature)}"


def closeness(path: str) -> Callable[[float], float]:
    """A key whose largest value is the best one. A gap is best at zero, from either side."""
    if path.startswith(("gap.", "aligned_gap.")):
        return lambda number: -abs(number)
    if _last(path) in _LOWER_IS_BETTER or path.startswith(metric_paths.TERMS):
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
        "macs": 0,
        "size_bytes": 0,
        "seed": 0,
        "epochs": 0,
        "n": 0,
    }.get(_last(path), 3)


def scaled(number: float, path: str) -> float:
    """The number in the unit of its label."""
    return 100 * number if is_share(path) else number
