"""What networks cost, in rows: one way to say it for pages and for the screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdcli import formatting
from kdcli.results.cost import Cost, Latency

# how a form is called in a row, and what runs it
_FORMS: Mapping[str, tuple[str, str]] = {
    "eager": ("", "eager PyTorch, float32"),
    "compiled": ("compiled", "torch.compile, float32"),
    "onnx": ("ONNX", "ONNX Runtime, float32, cpu"),
    "int8": ("int8", "ONNX Runtime, 8-bit integers, cpu"),
}


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


def rows_of(costs: Sequence[Cost]) -> tuple[CostRow, ...]:
    """The usual rows, and those of other forms that any of these costs was measured in."""
    found = dict.fromkeys(each.form for cost in costs for each in cost.latencies)
    return (*ROWS, *(row for form in found if form != "eager" for row in _rows_of_form(form)))


def _rows_of_form(form: str) -> tuple[CostRow, ...]:
    def row(batch: int, images: str) -> CostRow:
        return CostRow(
            f"{images}, {_FORMS.get(form, (form, form))[0]}, ms",
            lambda cost: _seconds(cost.latency(batch, form)),
            lambda cost: _latency(cost.latency(batch, form)),
        )

    return row(1, "1 image"), row(32, "32 images")


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
    threads = formatting.plural(found.threads, "thread")
    others = dict.fromkeys(each.form for each in cost.latencies if each.form != found.form)
    more = "".join(f"; {name} by {by}" for name, by in (_FORMS.get(o, (o, o)) for o in others))
    by = _FORMS.get(found.form, (found.form, found.form))[1]
    how = f"Latency in {by}, {found.device}, {threads}: median of {passes} (quartiles){more}."
    return how, operations


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
