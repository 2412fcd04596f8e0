"""Believable reports of `kd analyze-gap`, of any number of classes, teachers and students, without
a network.
"""

from dataclasses import replace

import numpy as np

from kdcli.results.cost import CapacityGap, Cost
from kdcli.results.gap import GapReport
from kdcli.results.intervals import Interval
from kdcli.results.pair import (
    CorrelationDifference,
    DegradationCurve,
    DegradationRow,
    DistanceRanks,
    GradientRescaling,
    PairExplanation,
    RescalingBin,
    StageCka,
)
from kdcli.results.teacher import (
    ClassEffect,
    ClassMatrix,
    ClassProjection,
    ClassRelations,
    ClassSimilarity,
    Contrast,
    Embedding,
    Hypothesis,
    Likeness,
    Points,
    Silhouette,
    SimilarityAt,
    TeacherExplanation,
    TemperatureScaling,
    Thresholds,
)
from tests.unit.report.fake_run import estimate, pair, response

N = 360


def similarity(tau: float, classes: int, cv: float, e: float) -> SimilarityAt:
    rows = tuple(
        ClassSimilarity(
            k,
            36,
            0.8,
            2.0 * e,
            1e-4,
            1e-4,
            cv * (1 + k / classes),
            0.9,
            ((0 if k else 1, 0.02), (2, 0.01)),
            0.01,
        )
        for k in range(classes)
    )
    around = Interval(0.9 * cv, 1.1 * cv)
    means = {name: estimate(0.01) for name in ("row_variance", "similarity_entropy")}
    return SimilarityAt(
        tau, N, classes, estimate(0.8), estimate(2.0 * e), estimate(e), **means, column_variance=1e-4, column_cv=cv, by_class=rows,
        column_variance_interval=Interval(0.9e-4, 1.1e-4), column_cv_interval=around,
    )  # fmt: skip


def hypothesis(classes: int, cv: float, e: float, effect: str) -> Hypothesis:
    rows = tuple(
        ClassEffect(k, 36, effect, e * (1 - 0.3 * k / classes), cv * (1 + k / classes))
        for k in range(classes)
    )
    return Hypothesis(
        9.0,
        effect,
        estimate(e),
        cv,
        Interval(0.9 * cv, 1.1 * cv),
        Thresholds(),
        settled=True,
        by_class=rows,
    )


def matrix(classes: int, salt: int) -> tuple[tuple[float, ...], ...]:
    values = np.random.default_rng(salt).normal(scale=0.1, size=(classes, classes))
    values = np.clip(
        (values + values.T) / 2
        + np.kron(np.eye(-(-classes // 5)), np.full((5, 5), 0.3))[:classes, :classes],
        -1,
        1,
    )
    np.fill_diagonal(values, 1.0)
    return tuple(map(tuple, values.tolist()))


def points(classes: int, n: int, salt: int = 0) -> Points:
    rng = np.random.default_rng(salt)
    label = np.arange(n) % classes
    at = rng.normal(size=(classes, 2))[label] * 10 + rng.normal(size=(n, 2))
    return Points(
        tuple(range(n)), tuple(label.tolist()), tuple(at[:, 0].tolist()), tuple(at[:, 1].tolist())
    )


def relations(classes: int) -> ClassRelations:
    grouped = classes >= 20
    contrast = Contrast(0.3, 0.0, 0.3, (200, 4750), Interval(0.25, 0.35)) if grouped else None
    kinds = [("probabilities", 1.0, None), ("probabilities", 4.0, None), ("weights", None, None)]
    if grouped:
        kinds.insert(2, ("probabilities", 4.0, classes // 10))
    made = tuple(
        ClassMatrix(of, tau, k, N, matrix(classes, salt), contrast)
        for salt, (of, tau, k) in enumerate(kinds)
    )
    order = tuple(range(classes))
    likeness = tuple(
        Likeness(place, len(made) - 1, 0.5, classes * (classes - 1) // 2, Interval(0.4, 0.6))
        for place in range(len(made) - 1)
    )
    return ClassRelations(order, tuple(k // 5 for k in order) if grouped else None, made, likeness)


def calibration() -> TemperatureScaling:
    gain = (estimate(0.3), estimate(0.28), estimate(0.02))
    return TemperatureScaling(1.2, None, N, 288, *gain, 0.03, 0.01, (1.1, 1.2, 1.3))


def teacher(
    classes: int = 10,
    *,
    deep: bool = True,
    cv: float = 0.21,
    e: float = 0.83,
    effect: str = "regularisation",
) -> TeacherExplanation:
    projected = points(3, 900)
    found = TeacherExplanation(
        similarity=tuple(similarity(tau, classes, cv, e) for tau in (1.0, 4.0, 9.0)),
        hypothesis=hypothesis(classes, cv, e, effect),
        relations=relations(classes),
        projection=ClassProjection(
            (0, 1, 2),
            "most alike",
            (300, 300, 300),
            projected,
            ((0, 0), (1, 0), (0, 1)),
            ((5, 5), (-5, 0), (0, 5)),
            estimate(0.1),
        ),
        calibration=calibration(),
    )
    if not deep:
        return found
    cloud = Embedding("tsne", N, points(classes, max(360, 20 * classes)), perplexity=30.0)
    return replace(found, tsne=cloud, silhouette=Silhouette(estimate(0.5), N, N, (0.5,) * classes))


def student(label: str, classes: int = 10, *, deep: bool = True) -> PairExplanation:
    bins = tuple(
        RescalingBin(24, 0.3 + 0.05 * k, 2.0**k, 2.0**k / 2, 2.0**k, 2.0 ** (k + 1))
        for k in range(12)
    )
    taps = ("stage1", "stage2", "pooled")
    return PairExplanation(
        student=label,
        rescaling=(
            GradientRescaling(
                4.0,
                340,
                20,
                3.0,
                2.0,
                0.1,
                -5.0,
                100.0,
                estimate(0.6),
                estimate(0.7),
                bins,
            ),
        ),
        distance_ranks=DistanceRanks(N, 0, estimate(0.8)),
        differences=(
            CorrelationDifference(
                "class_mean", False, N, 1.1, 5.9, (3, 3), (), matrix(classes, 5), matrix(classes, 6)
            ),
        ),
        cka=StageCka(
            taps,
            taps,
            (8, 8, 8),
            (8, 8, 8),
            ((0.9, 0.4, 0.3), (0.4, 0.8, 0.5), (0.3, 0.5, 0.7)),
            N,
            8,
        )
        if deep
        else None,
        calibration=calibration(),
        capacity=CapacityGap(Cost(1_430_000, 10**7), Cost(20_500, 10**6), 69.8, 10.0),
    )


def report(
    classes: int = 10,
    *,
    label: str = "large",
    students: tuple[str, ...] = ("small",),
    names=None,
    **facts,
) -> GapReport:
    """One teacher and its students, explained; without students, with the temperatures of a
    profile.
    """
    temperatures = (1.0, 4.0) if students else (1.0, 2.0, 4.0, 9.0)
    known = replace(response(label, "raw", 9.0, temperatures, classes), parameters=1_430_000)
    answered = tuple(
        response(name, "raw", 7.0 - place, temperatures, classes)
        for place, name in enumerate(students)
    )
    return GapReport(
        data="digits",
        split="test",
        n=N,
        class_names=names or tuple(map(str, range(classes))),
        temperatures=temperatures,
        teacher=known,
        students=answered,
        pairs=tuple(pair(known, each, classes) for each in answered),
        explanation=teacher(classes, **facts),
        explanations=tuple(student(name, classes) for name in students),
    )


def several(classes: int = 10) -> GapReport:
    """Two teachers, each with a student of its own, and the curve over them."""
    first, second = (
        report(classes),
        report(classes, label="huge", students=("tiny",), cv=0.005, effect="label smoothing"),
    )
    rows = tuple(
        DegradationRow(
            one.teacher.label, size, size, 20_500, 0.98, accuracy, Interval(accuracy - 0.02, accuracy + 0.01), change,
            estimate(0.1), estimate(0.3), 0.1, 0.97, one.students[0].label,
        )
        for one, size, accuracy, change in ((first, 1_430_000, 0.97, None), (second, 9_000_000, 0.95, -0.02))
    )  # fmt: skip
    curve = DegradationCurve(
        "teacher",
        1.0,
        rows,
        best=0,
        drop=0.02,
        degrades=False,
        rank_correlation=None,
    )
    return replace(first, others=(second,), curve=curve)
