"""Tables of what explains a gap: the same rows of text for the screen and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdcli import formatting

if TYPE_CHECKING:
    from kdcli.results.gap import GapReport
    from kdcli.results.intervals import Estimate, Interval
    from kdcli.results.pair import PairExplanation, StageCka
    from kdcli.results.teacher import (
        ClassMatrix,
        ClassRelations,
        Hypothesis,
        Likeness,
        SimilarityAt,
        TeacherExplanation,
        TemperatureScaling,
    )

Row = tuple[str, ...]


def span(value: float | None, interval: Estimate | Interval | None, digits: int = 3) -> str:
    """A number and its interval: 0.867 [0.861, 0.874]."""
    around = (
        ""
        if interval is None
        else (
            f" [{formatting.number(interval.low, digits)}, "
            f"{formatting.number(interval.high, digits)}]"
        )
    )
    return formatting.number(value, digits) + around


def estimate(found: Estimate | None, digits: int = 3) -> str:
    """The same of an estimate, a dot where there is none."""
    return span(found.value, found, digits) if found else formatting.MISSING


def small(value: float) -> str:
    """A small number with its power of ten: 3.95e−04."""
    return f"{value:.2e}".replace("-", formatting.MINUS)


# ---- the teacher alone ---------------------------------------------------------------------------


def label_rows(at: Sequence[SimilarityAt]) -> list[Row]:
    """Confidence and similarity labels, a row a temperature, under a heading."""
    rows: list[Row] = [("τ", "q_y", "V_row", "V_col", "CV_col", "95 % interval", "H_sim")]
    for each in at:
        interval = each.column_cv_interval
        reach = (
            f"{formatting.number(interval.low)}–{formatting.number(interval.high)}"
            if interval
            else ""
        )
        variances = small(each.row_variance.value), small(each.column_variance)
        shares = (
            formatting.number(each.column_cv),
            reach,
            formatting.number(each.similarity_entropy.value),
        )
        rows.append(
            (
                formatting.temperature(each.temperature),
                formatting.number(each.confidence.value),
                *variances,
                *shares,
            )
        )
    return rows


def verdict_rows(found: Hypothesis) -> list[Row]:
    """What the verdict rests on: quantity, value, how it stands to its limit, what the limit
    means.
    """
    limits, e, c = found.thresholds, found.relative_entropy, found.column_cv
    soft = "≥" if e.value >= limits.entropy else "<"
    varied = (
        f"≥ {limits.varied:g}"
        if c >= limits.varied
        else f"< {limits.varied:g}"
        if c >= limits.constant
        else f"< {limits.constant:g}"
    )
    meant = f"constant below {limits.constant:g}, varied from {limits.varied:g} on"
    return [
        (
            "S / log K",
            estimate(e),
            f"{soft} {formatting.number(limits.entropy, 2)}",
            "soft from here on",
        ),
        ("CV_col", span(c, found.column_cv_interval), varied, meant),
    ]


def settled(found: Hypothesis) -> str:
    """Tells whether the intervals decide the verdict."""
    return {True: "intervals settle it", False: "intervals do not settle it", None: "no interval"}[
        found.settled
    ]


def class_rows(report: GapReport, found: TeacherExplanation) -> list[Row]:
    """The verdict by class, the most varied first, under a heading; empty where none was
    reached.
    """
    if found.hypothesis is None:
        return []
    at = next(each for each in found.similarity if each.temperature == found.hypothesis.temperature)
    pairs = sorted(
        zip(at.by_class, found.hypothesis.by_class, strict=True),
        key=lambda pair: -pair[0].column_cv,
    )
    rows: list[Row] = [("class", "images", "q_y", "S / log K", "CV_col", "", "most like")]
    for labels, verdict in pairs:
        alike = ", ".join(
            f"{report.class_names[k]} {formatting.number(q)}" for k, q in labels.alike[:2]
        )
        numbers = (
            formatting.number(value)
            for value in (labels.confidence, verdict.relative_entropy, labels.column_cv)
        )
        rows.append(
            (report.class_names[labels.number], str(labels.n), *numbers, verdict.effect, alike)
        )
    return rows


def relation_rows(found: ClassRelations) -> list[Row]:
    """How it relates classes, a row a matrix, under a heading; empty where there is nothing to say
    in numbers.
    """
    grouped = any(matrix.contrast for matrix in found.matrices)
    if not grouped and not found.likeness:
        return []
    head = ("", "within", "across", "difference") if grouped else ("",)
    like = {each.first: each for each in found.likeness}
    rows: list[Row] = [(*head, "like weights, r")]
    for place, matrix in enumerate(found.matrices):
        rows.append(
            (_name(matrix), *(_contrast(matrix) if grouped else ()), _likeness(like.get(place)))
        )
    return rows


def _name(matrix: ClassMatrix) -> str:
    if matrix.of == "weights":
        return "cosine of weight rows"
    kept = f", largest {matrix.top_k}" if matrix.top_k else ""
    return f"correlation of q at τ = {formatting.temperature(matrix.temperature or 1)}{kept}"


def _contrast(matrix: ClassMatrix) -> Row:
    found = matrix.contrast
    if found is None:
        return ("", "", "")
    return (
        formatting.signed(found.within),
        formatting.signed(found.across),
        span(found.difference, found.interval),
    )


def _likeness(found: Likeness | None) -> str:
    return "" if found is None else span(found.value, found.interval, 2)


def geometry_rows(report: GapReport, found: TeacherExplanation) -> list[Row]:
    """Spread, silhouette and calibration: name, value, what it is of."""
    rows: list[Row] = []
    if found.projection:
        a, b, c = (report.class_names[k] for k in found.projection.classes)
        rows.append(
            (
                "spread",
                estimate(found.projection.spread),
                f"within over between, classes {a}, {b}, {c}: most alike",
            )
        )
    if found.silhouette:
        n = formatting.plural(found.silhouette.n, "image")
        rows.append(("silhouette", estimate(found.silhouette.value), f"from −1 to 1, {n}"))
    if found.calibration:
        rows.append(
            (
                "calibration",
                f"ECE {calibrated(found.calibration)}",
                f"at its best temperature, {fitted(found.calibration)}",
            )
        )
    return rows


def calibrated(found: TemperatureScaling) -> str:
    """ECE before and after."""
    return f"{formatting.number(found.ece_before)} → {formatting.number(found.ece_after)}"


def fitted(found: TemperatureScaling) -> str:
    """The temperature that calibrates best, where there is one."""
    if found.edge == "cold":
        return "none: all right"
    return (
        "none: no better than chance"
        if found.edge == "hot"
        else formatting.number(found.temperature, 2)
    )


# ---- pairs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairRow:
    """A number that explains a gap: its name, and its text for a student, empty where it has none.

    The screen and the page show each; --json and --csv have the fields of `PairExplanation`.
    """

    name: Callable[[Sequence[PairExplanation]], str]
    text: Callable[[GapReport, PairExplanation], str]


def _named(name: str) -> Callable[[Sequence[PairExplanation]], str]:
    return lambda _found: name


def _rank_correlation(found: Sequence[PairExplanation]) -> str:
    tau = {formatting.temperature(each.temperature) for pair in found for each in pair.rescaling}
    at = f", τ = {tau.pop()}" if len(tau) == 1 else ""
    return f"rank correlation of w with q_y{at}"


def _rescaling(pair: PairExplanation, of: Literal["spearman", "pearson"]) -> str:
    return estimate(getattr(pair.rescaling[0], of), 2) if pair.rescaling else formatting.MISSING


def _calibration(pair: PairExplanation, said: Callable[[TemperatureScaling], str]) -> str:
    return said(pair.calibration) if pair.calibration else formatting.MISSING


def _difference(report: GapReport, pair: PairExplanation) -> str:
    if not pair.differences:
        return formatting.MISSING
    found = pair.differences[0]
    row, column = (report.class_names[k] for k in found.place)
    where = row if row == column else f"{row}, {column}"
    return f"{formatting.number(found.mean, 2)}; {formatting.number(found.largest, 1)} ({where})"


def _operations(pair: PairExplanation) -> str:
    found = pair.capacity
    return formatting.times(found.macs_ratio) if found and found.macs_ratio else ""


def _latency(pair: PairExplanation) -> str:
    found = pair.capacity
    if not (found and found.latency_ratio):
        return ""
    both = [each.latency(1) for each in (found.teacher, found.student)]
    times = " / ".join(formatting.milliseconds(each.seconds.value) for each in both if each)
    return f"{formatting.times(found.latency_ratio)} ({times} ms, {both[0] and both[0].device})"


def diagonal(found: StageCka) -> str:
    """The CKA of the taps that both networks have."""
    both = [
        (tap, found.student_taps.index(tap), found.teacher_taps.index(tap))
        for tap in found.student_taps
        if tap in found.teacher_taps
    ]
    return ", ".join(formatting.number(found.values[row][column], 2) for _, row, column in both)


PAIR_ROWS: list[PairRow] = [
    PairRow(_rank_correlation, lambda _, pair: _rescaling(pair, "spearman")),
    PairRow(_named("Pearson's"), lambda _, pair: _rescaling(pair, "pearson")),
    PairRow(
        _named("rank correlation of −‖h−w_k‖² with q_k"),
        lambda _, pair: (
            estimate(pair.distance_ranks.correlation, 2)
            if pair.distance_ranks
            else formatting.MISSING
        ),
    ),
    PairRow(_named("|M(v)−M(z)|, mean; largest"), _difference),
    PairRow(_named("best temperature"), lambda _, pair: _calibration(pair, fitted)),
    PairRow(_named("ECE there"), lambda _, pair: _calibration(pair, calibrated)),
    PairRow(
        _named("teacher's parameters"),
        lambda _, pair: (
            formatting.times(pair.capacity.parameter_ratio) if pair.capacity else formatting.MISSING
        ),
    ),
    PairRow(_named("multiply-accumulates"), lambda _, pair: _operations(pair)),
    PairRow(_named("latency of one image"), lambda _, pair: _latency(pair)),
    PairRow(_named("CKA by stage"), lambda _, pair: diagonal(pair.cka) if pair.cka else ""),
]


def pair_rows(report: GapReport, found: Sequence[PairExplanation]) -> list[Row]:
    """What explains the gaps, a column a student, under a heading."""
    rows: list[Row] = [("what explains it", *(pair.student for pair in found))]
    for row in PAIR_ROWS:
        texts = tuple(row.text(report, pair) for pair in found)
        if any(texts):
            rows.append((row.name(found), *texts))
    return rows


# ---- several teachers or students ----------------------------------------------------------------


def curve_rows(report: GapReport) -> list[Row]:
    """All pairs by capacity, under a heading: both networks, size, accuracies, gaps; empty where
    there is no curve.
    """
    curve = report.curve
    if curve is None:
        return []
    side, other = (curve.varies, "student" if curve.varies == "teacher" else "teacher")
    rows: list[Row] = [
        (side, other, "params", "teacher", "student", "95 % interval", "G_S", "G_F", "KL")
    ]
    for row in curve.rows:
        size = formatting.count(
            row.teacher_parameters if side == "teacher" else row.student_parameters
        )
        accuracies = (
            formatting.percent(row.teacher_accuracy, report.n),
            formatting.percent(row.accuracy, report.n),
        )
        gaps = (
            formatting.signed(row.entropy.value),
            formatting.signed(row.free_energy.value, 2),
            formatting.number(row.kl),
        )
        rows.append(
            (
                row.label,
                row.other,
                size,
                *accuracies,
                formatting.percent_range(row.accuracy_interval, report.n),
                *gaps,
            )
        )
    return rows


_NOISE = {True: "the intervals do not overlap", False: "within noise: the intervals overlap"}


def said_of_curve(report: GapReport) -> str:
    """The curve in one sentence."""
    curve = report.curve
    assert curve is not None
    best, drop = curve.rows[curve.best], formatting.points(curve.drop, report.n)
    if len({row.accuracy for row in curve.rows}) == 1:
        return f"all have one accuracy: the gaps grow and shrink with the {curve.varies}"
    if curve.best == len(curve.rows) - 1:
        level = formatting.percent(best.accuracy, report.n)
        clear = all(
            row.accuracy_interval.high < best.accuracy_interval.low
            for row in curve.rows
            if row is not best
        )
        return f"the largest {curve.varies} gives the best student, {level} ({_NOISE[clear]})"
    kind = _NOISE[curve.degrades]
    return (
        f"best under {best.label}; the largest {curve.varies} costs {drop} ({kind})"
        if curve.varies == "teacher"
        else (f"best is {best.label}, {drop} above the largest student ({kind})")
    )


def teacher_rows(report: GapReport) -> list[Row]:
    """Several teachers, what each has to teach, smallest first, under a heading."""
    rows: list[Row] = [
        ("teacher", "params", "accuracy", "ECE", "S / log K", "CV_col", "distilling it is")
    ]
    for one in sorted(report.reports, key=lambda each: each.teacher.parameters):
        found = one.explanation.hypothesis if one.explanation else None
        said = (
            (
                formatting.number(found.relative_entropy.value),
                formatting.number(found.column_cv),
                found.effect,
            )
            if found
            else ("", "", "")
        )
        measures = one.teacher.measures
        known = (
            formatting.count(one.teacher.parameters),
            formatting.percent(measures.accuracy, report.n),
            formatting.number(measures.ece),
        )
        rows.append((one.teacher.label, *known, *said))
    return rows
