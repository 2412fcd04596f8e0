"""The degradation curve: students' accuracy and gaps as teacher or student grows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

from kdcli.analysis.correlation import spearman_rows
from kdcli.errors import Incompatible, UsageError
from kdcli.results.gap import GapReport, PairAt, PairReport, Response
from kdcli.results.measures import Labelled
from kdcli.results.pair import DegradationCurve, DegradationRow

Side = Literal["teacher", "student"]


class _Pair(NamedTuple):
    """A teacher, one of its students, and the gap between them."""

    teacher: Response
    student: Response
    report: PairReport
    at: PairAt  # of the report, at the curve's temperature

    def side(self, varies: Side) -> Response:
        """The network whose capacity orders the curve."""
        return self.teacher if varies == "teacher" else self.student


def degradation(
    reports: Sequence[GapReport],
    *,
    varies: Side,
    temperature: float = 1.0,
) -> DegradationCurve:
    """The curve of teacher-student pairs, ordered by the parameters of the side that varies.

    Source: paper 000, Table 7; paper 001, Fig. 9. One student against many teachers is one report a
    teacher, each with the student that it made; many students against one teacher are one report.
    Equal sizes keep the order given, and a label that is there several times, such as a student of
    several seeds, keeps its rows. Gaps are those of raw logits.

    Args:
        reports: gaps of teachers to their students, on the same data.
        varies: which side grows.
        temperature: at which the gaps are read; one of the reports'.

    Raises:
        UsageError: no report, no student, or a temperature that was not analysed.
        Incompatible: reports on different data, splits or numbers of samples, or on samples
            without labels.
    """
    _check_same_data(reports)
    pairs = [pair for report in reports for pair in _pairs(report, temperature)]
    if not pairs:
        raise UsageError(
            "no student to put on a degradation curve",
            hint="give at least one teacher-student pair",
        )
    pairs.sort(key=lambda pair: pair.side(varies).parameters)
    accuracies = [_labelled(pair.student).accuracy for pair in pairs]
    changes = [None, *(after - before for before, after in pairwise(accuracies))]
    best = accuracies.index(max(accuracies))
    first, last = (_labelled(pairs[place].student).accuracy_interval for place in (best, -1))
    return DegradationCurve(
        varies=varies,
        temperature=temperature,
        rows=tuple(_row(pair, varies, change) for pair, change in zip(pairs, changes, strict=True)),
        best=best,
        drop=accuracies[best] - accuracies[-1],
        degrades=first.low > last.high,
        rank_correlation=_rank_correlation(
            [pair.side(varies).parameters for pair in pairs], accuracies
        ),
    )


def _labelled(response: Response) -> Labelled:
    found = response.measures.labelled
    if found is None:
        raise Incompatible(
            f"{response.label} was measured on samples without labels, and a degradation curve is "
            "of accuracies",
            hint="measure it on samples with labels",
        )
    return found


def _check_same_data(reports: Sequence[GapReport]) -> None:
    if not reports:
        raise UsageError(
            "no gap report to take a degradation curve from",
            hint="give at least one teacher-student pair",
        )
    first = reports[0]
    for other in reports[1:]:
        if (other.data, other.split, other.n) != (first.data, first.split, first.n):
            raise Incompatible(
                f"gaps on the {other.n} samples of {other.measured_on} {other.split} do not belong "
                "on one curve with "
                f"those on the {first.n} samples of {first.measured_on} {first.split}",
                hint="analyse all pairs on the same data",
            )


def _pairs(report: GapReport, temperature: float) -> Iterator[_Pair]:
    for student, pair in zip(report.students, report.pairs, strict=True):
        if pair.form == "raw":
            at = next((each for each in pair.at if each.temperature == temperature), None)
            if at is None:
                given = ", ".join(f"{each.temperature:g}" for each in pair.at)
                raise UsageError(
                    f"the gap of {student.label} was not analysed at temperature {temperature:g}",
                    hint=f"choose from {given}",
                )
            yield _Pair(report.teacher, student, pair, at)


def _row(pair: _Pair, varies: Side, change: float | None) -> DegradationRow:
    return DegradationRow(
        label=pair.side(varies).label,
        capacity=pair.side(varies).parameters,
        teacher_parameters=pair.teacher.parameters,
        student_parameters=pair.student.parameters,
        teacher_accuracy=_labelled(pair.teacher).accuracy,
        accuracy=_labelled(pair.student).accuracy,
        accuracy_interval=_labelled(pair.student).accuracy_interval,
        change=change,
        entropy=pair.at.entropy,
        free_energy=pair.at.free_energy,
        kl=pair.at.kl,
        agreement=pair.report.agreement,
        other=pair.side("student" if varies == "teacher" else "teacher").label,
    )


def _rank_correlation(sizes: Sequence[float], accuracies: Sequence[float]) -> float | None:
    """Spearman's; None for fewer than three pairs, or where one side does not vary."""
    if len(sizes) < 3:
        return None
    rows = (torch.tensor([values], dtype=torch.float64) for values in (sizes, accuracies))
    found = spearman_rows(*rows).item()
    return None if math.isnan(found) else found
