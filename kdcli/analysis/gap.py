"""Entropy and free-energy gaps between a teacher and its students, with intervals.

Exact, and to second order beside it.

Signs, so that a student less sure than its teacher has positive gaps: G_entropy = S(student) -
S(teacher) and G_f = F(teacher) - F(student), with logits centred per sample (see
kdcli.analysis.energy).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kdcli.analysis.bootstrap import resampled_each
from kdcli.analysis.checks import (
    check_class_names,
    check_logits,
    check_resamples,
    check_temperatures,
    is_bare,
)
from kdcli.analysis.energy import Energies, divergence, energies, in_range, second_order
from kdcli.analysis.metrics import agreement_of, measure
from kdcli.core.types import SplitName
from kdcli.errors import Incompatible
from kdcli.results.gap import GapReport, PairAt, PairReport, Response, ResponseAt
from kdcli.results.intervals import Estimate
from kdcli.results.measures import Measures

Form = Literal["raw", "aligned"]


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """One network and its answers to a split.

    logits: [n,K] raw, in the split's order. aligned: [n,K] as its method's loss sees them beside
    the teacher's, None where these are the raw ones. facing: the teacher's [n,K] as that loss sees
    them, None where these are the raw ones. measures: of the raw logits.
    """

    label: str
    checkpoint: str
    network: str
    parameters: int
    method: str
    logits: Tensor
    aligned: Tensor | None
    measures: Measures
    facing: Tensor | None = None


class _Spread(NamedTuple):
    """Means over samples of (entropy, free energy) at J temperatures, float64."""

    mean: Tensor  # [2,J]
    resampled: Tensor  # [B,2,J]: in B bootstrap resamples
    by_class: Tensor  # [K,2,J]: NaN for a class without samples


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One network in one form: its logits [n,K] and what gaps are made of."""

    owner: Responses
    form: Form
    logits: Tensor
    energies: Energies
    spread: _Spread


def compare(
    teacher: Responses,
    students: Sequence[Responses],
    *,
    targets: Tensor,
    class_names: Sequence[str],
    data: str,
    split: SplitName,
    temperatures: Sequence[float],
    bootstrap: int = 1000,
    seed: int = 0,
) -> GapReport:
    """The gaps of every student to the teacher, on raw and, where it has them, aligned logits.

    Without students the report is the teacher's response profile over the temperatures.

    Args:
        teacher: its raw logits are what a student is compared with, but for an aligned one that
            faces others.
        students: any number, answers to the same samples in the same order.
        targets: [n] int64; all UNLABELLED where there are no labels: then nothing is by class.
        class_names: K names.
        data: the dataset's name; recorded.
        split: which split the samples are; recorded.
        temperatures: each > 0.
        bootstrap: resamples behind the 95 % intervals; the same ones for every statistic, so gaps
            are paired.
        seed: of the resamples.

    Raises:
        UsageError: a temperature that is not positive, or no resamples.
        Incompatible: class counts or numbers of samples that differ, or fewer than two classes.
        BadData: no samples, or logits that are NaN or infinite, named by network and sample.
    """
    check_temperatures(temperatures)
    check_resamples(bootstrap)
    _check_networks(teacher, students, targets, class_names)
    own: list[tuple[Responses, Form, Tensor]] = [*_forms(students)]
    facing: list[tuple[Responses, Form, Tensor]] = [
        (student, "aligned", student.facing) for student in students if student.facing is not None
    ]
    first, *sides = _sides(
        [(teacher, "raw", teacher.logits), *own, *facing],
        targets,
        tuple(temperatures),
        bootstrap=bootstrap,
        seed=seed,
    )
    seen = {id(side.owner): side for side in sides[len(own) :]}
    sides = sides[: len(own)]
    return GapReport(
        data=data,
        split=split,
        n=len(targets),
        class_names=tuple(class_names),
        temperatures=tuple(temperatures),
        teacher=_response(first, targets, temperatures),
        students=tuple(_response(side, targets, temperatures) for side in sides),
        pairs=tuple(
            _pair(
                side,
                seen.get(id(side.owner), first) if side.form == "aligned" else first,
                temperatures,
            )
            for side in sides
        ),
        bootstrap=bootstrap,
    )


def _check_networks(
    teacher: Responses, students: Sequence[Responses], targets: Tensor, class_names: Sequence[str]
) -> None:
    check_logits(teacher.logits, targets, label=f"teacher {teacher.label}", may_be_bare=True)
    check_class_names(class_names, teacher.logits, label=f"teacher {teacher.label}")
    for student, form, logits in _forms(students):
        label = (
            f"student {student.label}" if form == "raw" else f"student {student.label} (aligned)"
        )
        if logits.shape != teacher.logits.shape:
            raise Incompatible(
                f"{label} has {_size(logits)}, teacher {teacher.label} has {_size(teacher.logits)}",
                hint="a gap needs both networks to answer the same samples over the same classes",
            )
        check_logits(logits, targets, label=label, may_be_bare=True)


def _size(logits: Tensor) -> str:
    return " x ".join(str(part) for part in logits.shape) + " logits (samples x classes)"


def _forms(students: Sequence[Responses]) -> Iterator[tuple[Responses, Form, Tensor]]:
    """Each student's raw logits, then its aligned ones where it has them."""
    for student in students:
        yield student, "raw", student.logits
        if student.aligned is not None:
            yield student, "aligned", student.aligned


def _sides(
    forms: Sequence[tuple[Responses, Form, Tensor]],
    targets: Tensor,
    temperatures: Sequence[float],
    *,
    bootstrap: int,
    seed: int,
) -> list[_Side]:
    """Every network in every form; all share the resamples, so that gaps are paired."""
    found = [energies(logits, temperatures) for _, _, logits in forms]
    # [n,M,2,J]: M forms, entropy and free energy, J temperatures
    values = torch.stack(
        [torch.stack((each.entropy, each.free_energy), dim=1) for each in found], dim=1
    )
    classes = forms[0][2].shape[1]
    # one network at one temperature at a time [n,2]: how a sum over samples is rounded depends on
    # how many columns are summed beside it, and a gap is one number whatever else is asked for
    places = list(itertools.product(range(values.shape[1]), range(values.shape[3])))
    columns = [values[:, m, :, j].contiguous() for m, j in places]
    _, many, _, number = values.shape
    mean = torch.stack([each.mean(dim=0) for each in columns]).view(many, number, 2)
    mean = mean.movedim(1, 2)  # [M,2,J]
    resampled = resampled_each(columns, resamples=bootstrap, seed=seed)
    resampled = resampled.view(bootstrap, many, number, 2).movedim(2, 3)  # [B,M,2,J]
    by_class = _class_means(values, targets, classes)
    return [
        _Side(owner, form, logits, found[m], _Spread(mean[m], resampled[:, m], by_class[:, m]))
        for m, (owner, form, logits) in enumerate(forms)
    ]


def _class_means(values: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Means by class [K,...] of values [n,...]; 0/0 = NaN for a class without samples."""
    if is_bare(targets):
        targets, values = targets[:0], values[:0]
    totals = values.new_zeros(classes, *values.shape[1:]).index_add_(0, targets, values)
    count = torch.bincount(targets, minlength=classes)
    return totals / count.view(-1, *(1,) * (values.ndim - 1))


def _estimates(spread: _Spread, position: int) -> tuple[Estimate, Estimate]:
    """(entropy, free energy) at one temperature, with 95 % percentile intervals."""
    bounds = torch.tensor((0.025, 0.975), dtype=torch.float64)
    low, high = torch.quantile(spread.resampled[:, :, position], bounds, dim=0).tolist()
    means = spread.mean[:, position].tolist()
    return Estimate(means[0], low[0], high[0]), Estimate(means[1], low[1], high[1])


def _by_class(
    spread: _Spread, position: int
) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """(entropy, free energy) by class at one temperature; None for a class without samples."""
    entropy, free_energy = (
        tuple(None if math.isnan(value) else value for value in column)
        for column in spread.by_class[:, :, position].T.tolist()
    )
    return entropy, free_energy


def _response(side: _Side, targets: Tensor, temperatures: Sequence[float]) -> Response:
    owner, known = side.owner, side.owner.measures
    if side.form == "aligned":
        known = measure(
            side.logits,
            targets,
            split=known.split,
            selected=known.selected,
            label=f"student {owner.label} (aligned)",
        )
    at = []
    for position, temperature in enumerate(temperatures):
        at.append(
            ResponseAt(
                temperature, *_estimates(side.spread, position), *_by_class(side.spread, position)
            )
        )
    return Response(
        owner.label,
        owner.checkpoint,
        owner.network,
        owner.parameters,
        owner.method,
        side.form,
        known,
        tuple(at),
    )


def _pair(student: _Side, teacher: _Side, temperatures: Sequence[float]) -> PairReport:
    # S: student minus teacher; F: teacher minus student; [2,1], over [2,J], [B,2,J] and [K,2,J]
    signs = torch.tensor((1.0, -1.0), dtype=torch.float64)[:, None]
    gap = _Spread(*((z - v) * signs for z, v in zip(student.spread, teacher.spread, strict=True)))
    divergences = divergence(student.logits, teacher.logits, temperatures)
    agreement = agreement_of(student.logits, teacher.logits)
    at = tuple(
        _pair_at(gap, student, teacher, position, tau, divergences[position])
        for position, tau in enumerate(temperatures)
    )
    return PairReport(student.owner.label, student.form, agreement, at)


def _pair_at(
    gap: _Spread, student: _Side, teacher: _Side, position: int, temperature: float, kl: float
) -> PairAt:
    classes = teacher.logits.shape[1]
    entropy, free_energy = _estimates(gap, position)
    entropy_by_class, free_energy_by_class = _by_class(gap, position)
    approximate = second_order(
        student.energies, teacher.energies, classes=classes, temperature=temperature
    )
    return PairAt(
        temperature=temperature,
        entropy=entropy,
        free_energy=free_energy,
        entropy_second_order=approximate.entropy,
        free_energy_second_order=approximate.free_energy,
        entropy_ratio=None if approximate.negligible else entropy.value / approximate.entropy,
        free_energy_ratio=None
        if approximate.negligible
        else free_energy.value / approximate.free_energy,
        in_range=in_range(teacher.energies, classes=classes, temperature=temperature),
        kl=kl,
        entropy_by_class=entropy_by_class,
        free_energy_by_class=free_energy_by_class,
    )
