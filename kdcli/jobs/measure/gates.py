"""Gates: the thresholds that a user asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdcli.recipe.schema import GatesSection
from kdcli.results.cost import Cost
from kdcli.results.gap import GapAt
from kdcli.results.intervals import Interval, wilson
from kdcli.results.measures import GateResult, Labelled, Measures

Bounds = tuple[float | None, float | None]  # a number, and the end of its interval that decides


@dataclass(frozen=True)
class Held:
    """A network as gates see it.

    test: its measures. gap: to its teacher, at temperature 1 on raw logits. by_class: by name, its
    accuracy on the images of a class, and how many there are. cost: None where it was not measured.
    teacher, release: another network on the same images: its teacher, and the one that it must not
    be worse than; None where there is none. agreement: the share of images to which it and its
    teacher give one likeliest class; None where that is not known.
    """

    test: Measures
    gap: GapAt | None = None
    by_class: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    parameters: int | None = None
    cost: Cost | None = None
    teacher: Measures | None = None
    release: Measures | None = None
    agreement: float | None = None


def with_counts(shares: Mapping[str, float], targets: Tensor) -> dict[str, tuple[float, int]]:
    """Accuracies by class, in class order and without classes that have no samples, each with the
    number of its samples among targets [n].
    """
    if not shares:
        return {}
    counts = [count for count in torch.bincount(targets).tolist() if count]
    return {
        name: (share, count) for (name, share), count in zip(shares.items(), counts, strict=True)
    }


def check_gates(gates: GatesSection, held: Held, *, subject: str = "") -> tuple[GateResult, ...]:
    """The thresholds that were asked for, each with the value it met or missed. What could not be
    measured misses: a gap without a teacher, a latency that was not timed.

    With `gates.confident` a threshold on accuracy is held against the end of the 95 % interval that
    is nearer to it: what is not surely met is missed.
    """
    return tuple(_checked(gates, held, subject))


def _checked(gates: GatesSection, held: Held, subject: str) -> Iterator[GateResult]:
    test, gap, cost = held.test, held.gap, held.cost
    worst = _worst_class(held, surely=gates.confident)
    values: dict[str, tuple[Bounds, bool]] = {
        "min_accuracy": ((test.accuracy, low_end(test.accuracy_interval)), True),
        "min_balanced_accuracy": (_plain(test.balanced_accuracy), True),
        "min_macro_f1": (_plain(test.macro_f1), True),
        "min_class_accuracy": (worst, True),
        "within": (_points_below(test, held.teacher), False),
        "max_entropy_gap": (_plain(gap.entropy if gap else None), False),
        "max_free_energy_gap": (_plain(gap.free_energy if gap else None), False),
        "max_ece": (_plain(test.ece), False),
        "max_perplexity": (_plain(test.perplexity), False),
        "max_latency_ms": (_latency(cost), False),
        "max_parameters": (_plain(held.parameters), False),
        "min_agreement": (_agreement(held), True),
    }
    for name, ((value, bound), at_least) in values.items():
        limit = getattr(gates, name)
        if limit is not None:
            shown = bound if gates.confident else value
            met = _met(shown, limit, at_least=at_least)
            # only what has an interval is held against its end
            yield GateResult(name, limit, shown, met, subject, gates.confident and shown != value)
    if gates.not_below is not None and held.release is not None:
        lost, surely = _points_below(test, held.release)
        # what needs labels is refused where there are none
        limit, below = held.release.accuracy or 0.0, surely if gates.confident else lost
        # of accuracy, what is surely there beside that of the other
        shown = None if below is None else limit - below / 100
        met = _met(shown, limit, at_least=True)
        yield GateResult("not_below", limit, shown, met, subject, gates.confident)


def low_end(interval: Interval | None) -> float | None:
    """The lower end of an interval that may not be there."""
    return None if interval is None else interval.low


def _met(value: float | None, limit: float, *, at_least: bool) -> bool:
    return value is not None and (value >= limit if at_least else value <= limit)


def _plain(value: float | None) -> Bounds:
    """A number without an interval decides itself."""
    return value, value


def _latency(cost: Cost | None) -> Bounds:
    """Milliseconds for one image: the median, and the upper quartile of its repeats."""
    found = cost.latency(1) if cost is not None else None
    return (None, None) if found is None else (cost.latency_1_ms, 1000 * found.seconds.high)  # type: ignore[union-attr]


def _worst_class(held: Held, *, surely: bool) -> Bounds:
    found = [
        (share, wilson(round(share * n), n).low) for share, n in held.by_class.values() if n > 0
    ]
    return min(found, key=lambda each: each[surely], default=(None, None))


def _points_below(test: Measures, other: Measures | None) -> Bounds:
    """By how many percentage points accuracy is below another network's, and at most is."""
    if other is None or test.labelled is None or other.labelled is None:
        return None, None
    # a point is a point, whatever bits two fractions leave behind the ninth decimal
    lost = round(100 * (other.labelled.accuracy - test.labelled.accuracy), 9)
    return lost, 100 * difference_interval(other.labelled, test.labelled).high


def _agreement(held: Held) -> Bounds:
    """Of how many samples the class is the teacher's, and at least is."""
    share, n = held.agreement, held.test.n
    return (None, None) if share is None else (share, wilson(round(share * n), n).low)


def difference_interval(one: Labelled, other: Labelled) -> Interval:
    """The 95 % interval of the difference of two accuracies: Newcombe's hybrid of their score
    intervals (Statistics in Medicine 17, 1998, method 10). As of independent images; of the same
    ones, on which networks err alike, it is wider than it need be, and so on the safe side.
    """
    p, q = one.accuracy, other.accuracy
    a, b = one.accuracy_interval, other.accuracy_interval
    return Interval(
        p - q - math.hypot(p - a.low, b.high - q), p - q + math.hypot(a.high - p, q - b.low)
    )
