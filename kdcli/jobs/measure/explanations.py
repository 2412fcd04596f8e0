"""The explanations of a gap: those of one teacher and of one pair, from what one pass of each
network gave.

No part can take the others with it: one that the data or a network do not allow is left out, and a
warning says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from kdcli.analysis import cka
from kdcli.analysis.class_relations import class_relations, response_correlation
from kdcli.analysis.correlation_difference import correlation_difference
from kdcli.analysis.geometry import choose_classes, project, silhouette, tsne
from kdcli.analysis.hypothesis import hypothesis
from kdcli.analysis.rescaling import distance_ranks, rescaling
from kdcli.analysis.similarity import similarity_and_responses
from kdcli.analysis.temperature_scaling import cross_fitted
from kdcli.core import random
from kdcli.errors import BadData, Incompatible, UsageError
from kdcli.jobs.build.header import class_names
from kdcli.jobs.measure.answers import Answers
from kdcli.jobs.measure.costs import capacity_gap
from kdcli.jobs.measure.logit_gradients import label_gradient
from kdcli.results.cost import Cost
from kdcli.results.pair import (
    CorrelationDifference,
    DistanceRanks,
    GradientRescaling,
    PairExplanation,
    StageCka,
)
from kdcli.results.teacher import (
    ClassProjection,
    ClassRelations,
    SimilarityAt,
    TeacherExplanation,
)

# of a teacher alone: paper 001's temperatures, and the low ones between
PROFILE = (
    1.0,
    2.0,
    3.0,
    4.0,
    6.0,
    9.0,
    12.0,
    15.0,
    20.0,
)
# where networks are used, where distillation usually is, and where paper 001 judges
SIMILARITY = (
    1.0,
    4.0,
    9.0,
)
JUDGED_AT = 9.0
RELATIONS = (1.0, 4.0)  # paper 002's low and higher temperature
TOP_SHARE = 10  # paper 002's largest tenth of the classes, from twice as many on
MATRIX_CLASSES = 256  # above this, matrices of K^2 entries are summed up and not kept
# samples of an unbiased minibatch; smaller where there are few, for an interval takes several
CKA_BATCH = 512
UNCHANGED = 1e-6  # a factor on the gradient this near to 1 is the cross-entropy's own

T = TypeVar("T")


class Parts:
    """Runs the parts of an analysis: notes how long each took, and why one was left out."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    def timed(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns; its time counts for `name`."""
        start = time.perf_counter()
        try:
            return make()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def attempt(self, name: str, of: str, make: Callable[[], T]) -> T | None:
        """The same, or None and a warning where the part is refused; `of` is whose part it is."""
        try:
            return self.timed(name, make)
        except (BadData, Incompatible, UsageError) as error:
            self.warnings.append(f"{name} of {of} left out: {error.message}")
            return None


# ---- the teacher alone ---------------------------------------------------------------------------


def explain_teacher(
    teacher: Answers, parts: Parts, *, deep: bool, bootstrap: int
) -> TeacherExplanation:
    """Everything that is said of one network without a student.

    Args:
        teacher: measured with `taps`.
        parts: what runs them, and keeps times and warnings.
        deep: t-SNE and silhouette too.
        bootstrap: resamples behind the intervals.
    """
    name, y, label = teacher.label, teacher.targets, f"teacher {teacher.label}"
    read = parts.attempt("similarity labels", name, lambda: _similarity(teacher, label))
    labels, response = read or ((), None)
    judged = next((at for at in labels if at.temperature == JUDGED_AT), None)
    found = TeacherExplanation(
        similarity=labels,
        hypothesis=hypothesis(judged) if judged else None,
        relations=parts.attempt("class relations", name, lambda: _relations(teacher, parts, label)),
        projection=None
        if response is None
        else parts.attempt("projection", name, lambda: _projection(teacher, response)),
        calibration=parts.attempt(
            "calibration",
            name,
            lambda: cross_fitted(teacher.logits, y, bootstrap=bootstrap, label=label),
        ),
    )
    if not deep:
        return found
    return replace(
        found,
        tsne=parts.attempt(
            "t-SNE", name, lambda: tsne(teacher.pooled, teacher.targets, label=label)
        ),
        silhouette=parts.attempt(
            "silhouette",
            name,
            lambda: silhouette(teacher.pooled, y, classes=teacher.logits.shape[1], label=label),
        ),
    )


def _similarity(teacher: Answers, label: str) -> tuple[tuple[SimilarityAt, ...], Tensor]:
    """The labels, and the mean response [K,K] at temperature 1."""
    found = similarity_and_responses(
        teacher.logits,
        teacher.targets,
        temperatures=SIMILARITY,
        label=label,
        class_names=class_names(teacher.info, teacher.logits),
    )
    response = next(mean for at, mean in found if at.temperature == 1.0)
    return tuple(at for at, _ in found), response


def _relations(teacher: Answers, parts: Parts, label: str) -> ClassRelations:
    """Correlations of the answers, and the cosines of the last layer's weights where there is
    one.
    """
    v = teacher.logits
    classes = v.shape[1]
    correlations = [response_correlation(v, temperature, label=label) for temperature in RELATIONS]
    if classes >= 2 * TOP_SHARE:
        top = classes // TOP_SHARE
        correlations.append(response_correlation(v, RELATIONS[-1], top_k=top, label=label))
    head = parts.attempt("cosines of the weights", teacher.label, lambda: teacher.head)
    return class_relations(
        correlations,
        weight=None if head is None else head.weight,
        superclass=teacher.info.superclass,
        keep=_keeps(parts, classes),
        label=label,
    )


def _keeps(parts: Parts, classes: int) -> bool:
    """Tells whether matrices are kept; a note where they are not."""
    if classes > MATRIX_CLASSES:
        parts.warnings.append(
            f"matrices of {classes} classes are not kept or drawn, only the numbers that sum "
            f"them up: that is done up to {MATRIX_CLASSES} classes"
        )
    return classes <= MATRIX_CLASSES


def _projection(teacher: Answers, response: Tensor) -> ClassProjection:
    classes, why = choose_classes(response, class_names(teacher.info, teacher.logits))
    return project(
        teacher.pooled,
        teacher.targets,
        teacher.head.weight,
        classes,
        chosen=why,
        label=f"teacher {teacher.label}",
    )


# ---- a pair --------------------------------------------------------------------------------------


def explain_pair(
    teacher: Answers,
    student: Answers,
    parts: Parts,
    *,
    deep: bool,
    bootstrap: int,
    costs: tuple[Cost, Cost],
) -> PairExplanation:
    """Everything that is said of one student beside its teacher.

    Args:
        teacher, student: measured on the same samples with `taps`.
        parts: what runs them, and keeps times and warnings.
        deep: CKA too.
        bootstrap: resamples behind the intervals.
        costs: of teacher and student.
    """
    name, y = student.label, student.targets
    factors = parts.attempt(
        "gradient rescaling", name, lambda: _rescaling(teacher, student, bootstrap)
    )
    return PairExplanation(
        student=name,
        rescaling=() if factors is None else (factors,),
        distance_ranks=parts.attempt(
            "nearness of wrong classes", name, lambda: _ranks(teacher, student, bootstrap)
        ),
        differences=parts.attempt(
            "correlation difference", name, lambda: _differences(teacher, student, parts)
        )
        or (),
        cka=parts.attempt("CKA", name, lambda: _cka(teacher, student)) if deep else None,
        calibration=parts.attempt(
            "calibration",
            name,
            lambda: cross_fitted(student.logits, y, bootstrap=bootstrap, label=f"student {name}"),
        ),
        capacity=capacity_gap(*costs),
    )


def _called(teacher: Answers, student: Answers) -> dict[str, Any]:
    return {"student": f"student {student.label}", "teacher": f"teacher {teacher.label}"}


def _rescaling(teacher: Answers, student: Answers, bootstrap: int) -> GradientRescaling | None:
    """By the student's own loss; None where that is the cross-entropy, which rescales nothing."""
    gradient = label_gradient(student, teacher)
    called = _called(teacher, student)
    found = rescaling(
        student.as_trained,
        teacher.logits,
        student.targets,
        gradient.slopes,
        temperature=gradient.temperature,
        bootstrap=bootstrap,
        **called,
    )
    if found.low is None or found.high is None:
        return found
    return None if max(abs(found.low - 1), abs(found.high - 1)) < UNCHANGED else found


def _ranks(teacher: Answers, student: Answers, bootstrap: int) -> DistanceRanks:
    head = student.linear_head
    called = _called(teacher, student)
    return distance_ranks(
        student.pooled,
        head.weight,
        teacher.logits,
        student.targets,
        head_bias=head.bias,
        bootstrap=bootstrap,
        **called,
    )


def _differences(
    teacher: Answers, student: Answers, parts: Parts
) -> tuple[CorrelationDifference, ...]:
    """By class means, as they are and standardised, and by Pearson's correlation. Matrices of the
    first only: it is the figure's.
    """
    called, z, v, y = (
        _called(teacher, student),
        student.logits,
        teacher.logits,
        student.targets,
    )
    small = _keeps(parts, v.shape[1])
    return (
        correlation_difference(z, v, y, matrices=small, **called),
        correlation_difference(z, v, y, standardised=True, matrices=False, **called),
        correlation_difference(z, v, y, of="pearson", matrices=False, **called),
    )


def _cka(teacher: Answers, student: Answers) -> StageCka:
    """Unbiased, over minibatches in a drawn order: splits are often sorted by class."""
    sides = (student.features, teacher.features)
    found = cka.MinibatchCka(*(tuple(side) for side in sides))
    n = len(student.targets)
    order = random.permutation(random.key(0, "cka"), n)
    for rows in order.tensor_split(max(-(-n // CKA_BATCH), min(8, n // 16), 1)):
        found.update(*({tap: x[rows] for tap, x in side.items()} for side in sides))
    return found.result()
