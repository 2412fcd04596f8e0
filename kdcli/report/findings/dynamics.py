"""Training dynamics in order and in words; figures.dynamics draws them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kdcli import formatting
from kdcli.results.dynamics import NetworkSnapshot, Snapshot
from kdcli.runs.read import Run

FIXED = ("teacher", "reference")  # networks that training leaves as they are


class Moment(NamedTuple):
    """A probe and when it was made: after so many epochs, all stages counted."""

    epochs: int
    stage: str
    probe: Snapshot


def course(run: Run) -> tuple[Moment, ...]:
    """The snapshots in order: before the first step of each stage, and after each epoch."""
    before = {stage.stage: stage.probe for stage in run.stages}
    found = []
    for position, epoch in enumerate(run.epochs):
        begins = position == 0 or epoch.stage != run.epochs[position - 1].stage
        if begins and (probe := before.get(epoch.stage)) is not None:
            found.append(Moment(position, epoch.stage, probe))
        if epoch.probe is not None:
            found.append(Moment(position + 1, epoch.stage, epoch.probe))
    return tuple(found)


def images(probe: Snapshot) -> str:
    """The images of a probe, in words."""
    return formatting.plural(
        probe.n, "held-out image" if probe.split == "val" else "training image"
    ) + ("" if probe.split == "val" else ", not augmented")


def teacher_of(probe: Snapshot) -> str | None:
    """What the teacher is called in a probe, or None."""
    return next((name for name in FIXED if name in probe.networks), None)


def rows(first: Snapshot, last: Snapshot) -> Iterator[tuple[str, ...]]:
    """Cells of a table: accuracy, entropy, free energy and logit norm at temperature 1 of each
    network, at first and at last.
    """
    for name, item in sorted(last.networks.items(), key=lambda entry: entry[0] not in FIXED):
        if name in FIXED:
            yield name, *_cells(item)
            continue
        if name in first.networks:
            yield f"{name}, at first", *_cells(first.networks[name])
        yield f"{name}, at last", *_cells(item)


def _cells(item: NetworkSnapshot) -> tuple[str, ...]:
    at = item.at[0]
    return (
        formatting.percent(item.accuracy),
        formatting.number(at.entropy),
        formatting.number(at.free_energy, 2),
        formatting.number(item.logit_norm, 1),
    )


def sentences(first: Snapshot, last: Snapshot) -> Iterator[str]:
    """What became of the network in training, and how near it was to the answers of others."""
    teacher = teacher_of(last)
    start, end = (
        formatting.number(probe.networks[last.trained].at[0].entropy) for probe in (first, last)
    )
    level = (
        f"; that of the {teacher} is {formatting.number(last.networks[teacher].at[0].entropy)}"
        if teacher
        else ""
    )
    yield f"Mean entropy of the {last.trained}: {start} nats at first, {end} at last{level}."
    others = [name for name in last.networks if name in first.networks and name != last.trained]
    if len(others) > 1:
        early, late = (_near(probe, others) for probe in (first, last))
        yield (
            f"KL to its answers, in nats: at first {early}; at last {late}. What is nearer is "
            "easier to follow."
        )


def _near(probe: Snapshot, others: list[str]) -> str:
    called = {name: f"the {name}" if name in FIXED else name for name in others}
    return formatting.listed(
        [
            f"{formatting.number(probe.networks[name].at[0].kl)} from {called[name]}"
            for name in others
        ]
    )
