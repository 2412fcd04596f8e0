"""What is rounded before it is written with a run."""

from __future__ import annotations

from dataclasses import replace

from kdcli.results.pair import CorrelationDifference
from kdcli.results.teacher import Matrix, TeacherExplanation

DIGITS = 4  # of matrices and points, which are only drawn


def rounded_points(found: TeacherExplanation) -> TeacherExplanation:
    """What is to be drawn of a teacher, with as many digits as a drawing shows."""
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


def rounded_difference(found: CorrelationDifference) -> CorrelationDifference:
    """The same of how a student's correlations differ from a teacher's."""
    return replace(found, teacher=_rounded(found.teacher), student=_rounded(found.student))


def _rounded(matrix: Matrix | None) -> Matrix | None:
    return (
        None
        if matrix is None
        else tuple(tuple(round(value, DIGITS) for value in row) for row in matrix)
    )
