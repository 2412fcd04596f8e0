"""The explanations that a run's page shows, from what is at hand when it ends: one more pass over
the test images, for features.

`kd analyze-gap` says the same of any networks, at full precision and, if asked, at more length.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kdcli.engine.evaluator import collect, evaluating
from kdcli.jobs.build.job import Job
from kdcli.jobs.measure.answers import Answered, Measured, Side
from kdcli.jobs.measure.explanations import Parts, cost, explain_pair, explain_teacher
from kdcli.results.gap import GapReport
from kdcli.results.pair import CorrelationDifference, PairExplanation
from kdcli.results.teacher import Matrix, TeacherExplanation

# behind each interval: right to two digits of its width, in a fifth of the time that kd analyze-gap
# takes
RESAMPLES = 200
# of one network's features: where they would be more, what needs them is left to kd analyze-gap
FEATURE_BYTES = 2**28
DIGITS = 4  # of matrices and points, which are only drawn


def explained(
    job: Job, report: GapReport, teacher: Answered, student: Answered | None, targets: Tensor
) -> GapReport:
    """A run's GapReport with what explains it, or as it was, with a warning: what is said about a
    run never costs the run.

    Args:
        report: of this teacher, or reference, and of this student; or of the run's own network as a
            teacher, and of no student.
        targets: of the test images, [n].
    """
    try:
        return _explained(job, report, teacher, student, targets)
    except Exception as error:  # noqa: BLE001  weights that took days are not saved yet, and somebody's own network may do anything
        return replace(
            report, warnings=(f"the explanations are left out: {type(error).__name__}: {error}",)
        )


def _explained(
    job: Job, report: GapReport, teacher: Answered, student: Answered | None, targets: Tensor
) -> GapReport:
    parts = Parts()
    # taps are asked of a compiled network here alone: nothing to compile for
    with torch.compiler.set_stance("force_eager"):
        first = _side(job, teacher, targets)
        found = explain_teacher(first, job.feed.info, parts, deep=False, bootstrap=RESAMPLES)
        pairs = () if student is None else (_pair(job, first, _side(job, student, targets), parts),)
    return replace(
        report,
        explanation=_drawn(found),
        explanations=tuple(
            replace(pair, differences=tuple(map(_thinned, pair.differences))) for pair in pairs
        ),
        warnings=tuple(dict.fromkeys(_notes(parts, teacher))),
    )


def _notes(parts: Parts, teacher: Answered) -> list[str]:
    if teacher.alone:
        return parts.warnings
    without = (
        f"{teacher.label}: no features and no last layer in common, so that what needs those is "
        "left out"
    )
    return [without, *(note for note in parts.warnings if "no tap 'pooled'" not in note)]


def _side(job: Job, answered: Answered, targets: Tensor) -> Side:
    features = {}
    tap = answered.network.taps.get("pooled")
    if (
        answered.alone
        and tap is not None
        and 4 * tap.channels * job.feed.size("test") <= FEATURE_BYTES
    ):
        with evaluating(answered.network):
            read = collect(
                lambda batch: answered.ask(job.runtime.place(batch), ("pooled",)).taps["pooled"],
                job.feed.split("test"),
            )
        features = {"pooled": read[0].flatten(1)}
    measured = Measured(
        Path(),
        answered.label,
        answered.header,
        answered.network,
        answered.logits,
        targets,
        features,
    )
    return Side(answered.label, measured)


def _pair(job: Job, teacher: Side, student: Side, parts: Parts) -> PairExplanation:
    image = job.runtime.place(next(iter(job.feed.split("test")))).x[:1]
    with evaluating(student.item.network):
        costs = (cost(teacher.item, image, timed=False), cost(student.item, image, timed=False))
        return explain_pair(teacher, student, parts, deep=False, bootstrap=RESAMPLES, costs=costs)


# ---- what is only drawn needs few digits ---------------------------------------------------------


def _drawn(found: TeacherExplanation) -> TeacherExplanation:
    relations, projection = found.relations, found.projection
    if relations:
        relations = replace(
            relations,
            matrices=tuple(
                replace(each, values=_rounded(each.values)) for each in relations.matrices
            ),
        )
    if projection:
        x, y = (
            tuple(round(value, DIGITS) for value in values)
            for values in (projection.points.x, projection.points.y)
        )
        projection = replace(projection, points=replace(projection.points, x=x, y=y))
    return replace(found, relations=relations, projection=projection)


def _thinned(found: CorrelationDifference) -> CorrelationDifference:
    return replace(found, teacher=_rounded(found.teacher), student=_rounded(found.student))


def _rounded(matrix: Matrix | None) -> Matrix | None:
    return (
        None
        if matrix is None
        else tuple(tuple(round(value, DIGITS) for value in row) for row in matrix)
    )
