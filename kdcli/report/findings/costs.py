"""What networks cost, in rows: one way to say it for pages and for the screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kdcli import formatting
from kdcli.results.cost import Cost, Latency

_FORMS = {"eager": "eager PyTorch"}


@dataclass(frozen=True, slots=True)
class CostRow:
    """One kind of cost. of: its number; say: that number as text."""

    name: str
    of: Callable[[Cost], float | None]
    say: Callable[[Cost], str]


def _latency(found: Latency | None) -> str:
    """The median, and the quartiles in brackets, in milliseconds."""
    if found is None:
        return formatting.MISSING
    low, middle, high = (
        formatting.milliseconds(value)
        for value in (found.seconds.low, found.seconds.value, found.seconds.high)
    )
    return f"{middle} ({low}–{high})"


def _seconds(found: Latency | None) -> float | None:
    return None if found is None else found.seconds.value


ROWS: tuple[CostRow, ...] = (
    CostRow(
        "size on disk",
        lambda cost: cost.size_bytes,
        lambda cost: formatting.disk(cost.size_bytes or 0),
    ),
    CostRow(
        "parameters", lambda cost: cost.parameters, lambda cost: formatting.count(cost.parameters)
    ),
    CostRow("multiply-adds", lambda cost: cost.macs, lambda cost: formatting.count(cost.macs or 0)),
    CostRow(
        "1 image, ms",
        lambda cost: _seconds(cost.latency(1)),
        lambda cost: _latency(cost.latency(1)),
    ),
    CostRow(
        "32 images, ms",
        lambda cost: _seconds(cost.latency(32)),
        lambda cost: _latency(cost.latency(32)),
    ),
)


def shown(row: CostRow, cost: Cost) -> str:
    """A cost as text; a dot where it is not known."""
    return formatting.MISSING if row.of(cost) is None else row.say(cost)


def ratio(row: CostRow, teacher: Cost, student: Cost) -> str:
    """How many times the teacher's cost is the student's; a dot where one is not known."""
    first, second = row.of(teacher), row.of(student)
    return formatting.times(first / second) if first and second else formatting.MISSING


def conditions(cost: Cost) -> tuple[str, ...]:
    """How latencies were measured, where they were, and what multiply-adds are of."""
    operations = "Multiply-adds of one image, in convolutions and matrix products."
    if not cost.latencies:
        return (operations,)
    found, counts = cost.latencies[0], {each.repeats for each in cost.latencies}
    passes = f"{'at least ' if len(counts) > 1 else ''}{min(counts)} passes"
    form, threads = _FORMS.get(found.form, found.form), formatting.plural(found.threads, "thread")
    return (
        f"Latency in {form}, float32, {found.device}, {threads}: median of {passes} (quartiles).",
        operations,
    )


def gain(teacher: Cost, student: Cost) -> str:
    """What a student is beside its teacher, in a clause: smaller, and faster where that was
    measured.
    """
    disk, parameters, operations, _, many = ROWS
    both = (teacher, student)
    found = (
        _times(disk, *both, "smaller on disk", "larger on disk"),
        ""
        if disk.of(teacher) and disk.of(student)
        else _times(parameters, *both, "smaller", "larger"),
        _times(operations, *both, "fewer multiply-adds", "more multiply-adds"),
        faster(teacher, student),
        _times(many, *both, "faster on 32", "slower on 32"),
    )
    return ", ".join(part for part in found if part)


def faster(teacher: Cost, student: Cost) -> str:
    """How many times a student is faster than its teacher, in a clause; nothing where that was not
    measured.
    """
    return _times(ROWS[3], teacher, student, "faster on one image", "slower on one image")


def _times(row: CostRow, teacher: Cost, student: Cost, better: str, worse: str) -> str:
    first, second = row.of(teacher), row.of(student)
    if not first or not second:
        return ""
    more = first >= second
    value = formatting.times(first / second if more else second / first)
    return f"{value} {better if more else worse}"
