"""What explains a gap, on a screen: the teacher by itself, then each student beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kdcli.cli.text import columns, shorten
from kdcli.report import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from kdcli.comparisons import PairExplanation, StageCka
    from kdcli.explanations import ClassMatrix, ClassRelations, Hypothesis, Likeness, SimilarityAt, TeacherExplanation, TemperatureScaling
    from kdcli.intervals import Estimate, Interval
    from kdcli.results import GapReport

CLASSES = 5  # rows of the table by class, unless all are asked for
ROOM = 20  # columns of a second name in a row
SIDE_BY_SIDE = 2  # students in one table
DEEP = ("t-SNE", "silhouette", "CKA", "latency")


def span(value: float | None, interval: Estimate | Interval | None, digits: int = 3) -> str:
    """A number and its interval: 0.867 [0.861, 0.874]."""
    around = "" if interval is None else f" [{words.number(interval.low, digits)}, {words.number(interval.high, digits)}]"
    return words.number(value, digits) + around


def estimate(found: Estimate | None, digits: int = 3) -> str:
    """The same of an estimate, a dot where there is none."""
    return span(found.value, found, digits) if found else words.MISSING


def _small(value: float) -> str:
    return f"{value:.2e}".replace("-", words.MINUS)


# ---- the teacher alone -----------------------------------------------------------------------------------------------


def teacher_lines(report: GapReport, *, every_class: bool) -> Iterator[str]:
    """Everything about the teacher that its response profile does not say."""
    found = report.explanation
    if found is None:
        return
    if found.similarity:
        yield ""
        yield from _labels(found.similarity)
    if found.hypothesis:
        yield ""
        yield from _verdict(found.hypothesis)
        yield from _by_class(report, found, every_class=every_class)
    if found.relations:
        yield ""
        yield from _relations(found.relations)
    yield from _geometry(report, found)


def verdict_line(report: GapReport) -> Iterator[str]:
    """The verdict alone, for a screen that is about students."""
    found = report.explanation.hypothesis if report.explanation else None
    if found:
        e, c = words.number(found.relative_entropy.value), words.number(found.column_cv)
        tau = words.temperature(found.temperature)
        yield f"  teacher alone    {found.effect} at τ = {tau}: S / log K {e}, CV_col {c}   (why: -v)"


def _labels(at: Sequence[SimilarityAt]) -> Iterator[str]:
    yield "  confidence label q_y and similarity labels q_k, k ≠ y, of q = softmax(v/τ)"
    rows = [("τ", "q_y", "V_row", "V_col", "CV_col", "95 % interval", "H_sim")]
    for each in at:
        interval = each.column_cv_interval
        reach = f"{words.number(interval.low)}–{words.number(interval.high)}" if interval else ""
        rows.append(
            (
                words.temperature(each.temperature),
                words.number(each.confidence.value),
                _small(each.row_variance.value),
                _small(each.column_variance),
                words.number(each.column_cv),
                reach,
                words.number(each.similarity_entropy.value),
            )
        )
    yield from columns(rows, ">>>>>>>", indent=4)
    yield "  V_row: variance of q_k over the wrong classes of an image; V_col: over the images of a class"
    yield "  similarity labels scaled to sum 1: CV_col, spread over mean in a class; H_sim, entropy / log(K−1)"


def _verdict(found: Hypothesis) -> Iterator[str]:
    limits, tau = found.thresholds, words.temperature(found.temperature)
    sure = {True: "intervals settle it", False: "intervals do not settle it", None: "no interval"}[found.settled]
    yield f"  distilling it amounts to {found.effect} at τ = {tau}   ({sure})"
    e, c = found.relative_entropy, found.column_cv
    soft = "≥" if e.value >= limits.entropy else "<"
    varied = f"≥ {limits.varied:g}" if c >= limits.varied else f"< {limits.varied:g}" if c >= limits.constant else f"< {limits.constant:g}"
    rows = [
        ("S / log K", estimate(e), f"{soft} {words.number(limits.entropy, 2)}", f"soft from here on ({limits.entropy_from})"),
        ("CV_col", span(c, found.column_cv_interval), varied, f"constant below {limits.constant:g}, varied from {limits.varied:g} on"),
    ]
    yield from columns(rows, "<<<<", indent=4)
    yield "  varied and soft: distillation; constant: label smoothing; all else: regularisation (limits ours)"


def _by_class(report: GapReport, found: TeacherExplanation, *, every_class: bool) -> Iterator[str]:
    assert found.hypothesis is not None
    counts = ", ".join(f"{number} {effect}" for effect, number in found.hypothesis.counts.items())
    at = next(each for each in found.similarity if each.temperature == found.hypothesis.temperature)
    pairs = sorted(zip(at.by_class, found.hypothesis.by_class, strict=True), key=lambda pair: -pair[0].column_cv)
    shown = pairs if every_class else pairs[:CLASSES]
    more = "" if len(shown) == len(pairs) else "; largest CV_col first, all with -v"
    yield f"  by class: {counts}{more}"
    rows: list[tuple[str, ...]] = [("class", "images", "q_y", "S / log K", "CV_col", "", "most like")]
    for labels, verdict in shown:
        alike = ", ".join(f"{report.class_names[k]} {words.number(q)}" for k, q in labels.alike[:2])
        numbers = (words.number(value) for value in (labels.confidence, verdict.relative_entropy, labels.column_cv))
        rows.append((report.class_names[labels.number], str(labels.n), *numbers, verdict.effect, alike))
    yield from columns(rows, "<>>>><<", indent=4)


def _relations(found: ClassRelations) -> Iterator[str]:
    grouped = any(matrix.contrast for matrix in found.matrices)
    if not grouped and not found.likeness:
        return
    yield "  how it relates classes: means over pairs of two" + (", within superclasses and across" if grouped else "")
    head = ("", "within", "across", "difference") if grouped else ("",)
    rows: list[tuple[str, ...]] = [(*head, "like weights, r")]
    like = {each.first: each for each in found.likeness}
    for place, matrix in enumerate(found.matrices):
        rows.append((_name(matrix), *(_contrast(matrix) if grouped else ()), _likeness(like.get(place))))
    yield from columns(rows, "<>>><" if grouped else "<<", indent=4)


def _name(matrix: ClassMatrix) -> str:
    if matrix.of == "weights":
        return "cosine of weight rows"
    kept = f", largest {matrix.top_k}" if matrix.top_k else ""
    return f"correlation of q at τ = {words.temperature(matrix.temperature or 1)}{kept}"


def _contrast(matrix: ClassMatrix) -> tuple[str, str, str]:
    found = matrix.contrast
    if found is None:
        return ("", "", "")
    return (words.signed(found.within), words.signed(found.across), span(found.difference, found.interval))


def _likeness(found: Likeness | None) -> str:
    return "" if found is None else span(found.value, found.interval, 2)


def _geometry(report: GapReport, found: TeacherExplanation) -> Iterator[str]:
    rows = []
    if found.projection:
        a, b, c = (report.class_names[k] for k in found.projection.classes)
        rows.append(("spread", estimate(found.projection.spread), f"within over between, classes {a}, {b}, {c}: most alike"))
    if found.silhouette:
        n = words.plural(found.silhouette.n, "image")
        rows.append(("silhouette", estimate(found.silhouette.value), f"from −1 to 1, {n}"))
    if found.calibration:
        rows.append(("calibration", f"ECE {_calibration(found.calibration)}", f"at its best temperature, {_fitted(found.calibration)}"))
    if rows:
        yield ""
        yield from columns(rows, "<<<")


def _calibration(found: TemperatureScaling) -> str:
    return f"{words.number(found.ece_before)} → {words.number(found.ece_after)}"


def _fitted(found: TemperatureScaling) -> str:
    if found.edge == "cold":
        return "none: all right"
    return "none: no better than chance" if found.edge == "hot" else words.number(found.temperature, 2)


# ---- pairs -----------------------------------------------------------------------------------------------------------


def pair_lines(report: GapReport) -> Iterator[str]:
    """A table of what explains the gaps, a column a student."""
    found = report.explanations
    for first in range(0, len(found), SIDE_BY_SIDE):
        yield ""
        yield from _side_by_side(report, found[first : first + SIDE_BY_SIDE])
    if found:
        yield "  w: factor of distillation on the gradient at the label's logit; M: class means of centred logits"


def _side_by_side(report: GapReport, found: Sequence[PairExplanation]) -> list[str]:
    tau = {words.temperature(each.temperature) for pair in found for each in pair.rescaling}
    at = f", τ = {tau.pop()}" if len(tau) == 1 else ""
    quantities: list[tuple[str, Callable[[PairExplanation], str]]] = [
        (f"rank correlation of w with q_y{at}", lambda pair: estimate(pair.rescaling[0].spearman, 2) if pair.rescaling else words.MISSING),
        ("Pearson's", lambda pair: estimate(pair.rescaling[0].pearson, 2) if pair.rescaling else words.MISSING),
        (
            "rank correlation of −‖h−w_k‖² with q_k",
            lambda pair: estimate(pair.distance_ranks.correlation, 2) if pair.distance_ranks else words.MISSING,
        ),
        ("|M(v)−M(z)|, mean; largest", lambda pair: _difference(report, pair)),
        ("best temperature", lambda pair: _fitted(pair.calibration) if pair.calibration else words.MISSING),
        ("ECE there", lambda pair: _calibration(pair.calibration) if pair.calibration else words.MISSING),
        ("teacher's parameters", lambda pair: words.times(pair.capacity.parameter_ratio) if pair.capacity else words.MISSING),
        ("multiply-accumulates", _operations),
        ("latency of one image", _latency),
        ("CKA by stage", lambda pair: diagonal(pair.cka) if pair.cka else ""),
    ]
    rows = [("what explains it", *(pair.student for pair in found))]
    rows += [row for name, say in quantities if any((row := (name, *map(say, found)))[1:])]
    return columns(rows)


def _difference(report: GapReport, pair: PairExplanation) -> str:
    if not pair.differences:
        return words.MISSING
    found = pair.differences[0]
    row, column = (report.class_names[k] for k in found.place)
    where = row if row == column else f"{row}, {column}"
    return f"{words.number(found.mean, 2)}; {words.number(found.largest, 1)} ({where})"


def _operations(pair: PairExplanation) -> str:
    found = pair.capacity
    return words.times(found.macs_ratio) if found and found.macs_ratio else ""


def _latency(pair: PairExplanation) -> str:
    found = pair.capacity
    if not (found and found.latency_ratio and found.teacher.latency and found.student.latency):
        return ""
    times = (f"{1000 * each.value:.2g}" for each in (found.teacher.latency, found.student.latency))
    return f"{words.times(found.latency_ratio)} ({' / '.join(times)} ms, {found.device})"


def diagonal(found: StageCka) -> str:
    """The CKA of the taps that both networks have."""
    both = [(tap, found.student_taps.index(tap), found.teacher_taps.index(tap)) for tap in found.student_taps if tap in found.teacher_taps]
    return ", ".join(words.number(found.values[row][column], 2) for _, row, column in both)


# ---- several teachers or students, and what it took ------------------------------------------------------------------


def curve_lines(report: GapReport, width: int) -> Iterator[str]:
    """All pairs as one table, by capacity."""
    curve = report.curve
    if curve is None:
        return
    side, other = (curve.varies, "student" if curve.varies == "teacher" else "teacher")
    partners = {row.other for row in curve.rows}
    yield ""
    yield f"  by the {side}'s {curve.measure}, τ = {words.temperature(curve.temperature)}" + (
        f" · {other} {partners.pop()}" if len(partners) == 1 else ""
    )
    rows: list[tuple[str, ...]] = [(side, other if partners else "", "params", "teacher", "student", "95 % interval", "G_S", "G_F", "KL")]
    for row in curve.rows:
        size = words.count(row.teacher_parameters if side == "teacher" else row.student_parameters)
        accuracies = (words.percent(row.teacher_accuracy, report.n), words.percent(row.accuracy, report.n))
        gaps = (words.signed(row.entropy.value), words.signed(row.free_energy.value, 2), words.number(row.kl))
        interval = words.percent_range(row.accuracy_interval, report.n)
        rows.append((row.label, shorten(row.other, ROOM) if partners else "", size, *accuracies, interval, *gaps))
    kept = rows if partners else [(row[0], *row[2:]) for row in rows]
    yield from columns(kept, "<<>>>>>>>" if partners else "<>>>>>>>", room=min(width, 100))
    yield f"  {said_of_curve(report)}"


def said_of_curve(report: GapReport) -> str:
    """The curve in one sentence."""
    curve = report.curve
    assert curve is not None
    best, drop = curve.rows[curve.best], words.points(curve.drop, report.n)
    if len({row.accuracy for row in curve.rows}) == 1:
        return f"all have one accuracy: the gaps grow and shrink with the {curve.varies}"
    if curve.best == len(curve.rows) - 1:
        return f"the largest {curve.varies} gives the best student, {words.percent(best.accuracy, report.n)}"
    kind = "the intervals do not overlap" if curve.degrades else "within noise of this test set: the intervals overlap"
    return (
        f"best under {best.label}; the largest {curve.varies} costs {drop} ({kind})"
        if curve.varies == "teacher"
        else (f"best is {best.label}, {drop} above the largest student ({kind})")
    )


def teachers_table(report: GapReport) -> Iterator[str]:
    """Several teachers without students: what each has to teach."""
    rows = [("teacher", "params", "accuracy", "ECE", "S / log K", "CV_col", "distilling it is")]
    for one in sorted(report.reports, key=lambda each: each.teacher.parameters):
        found = one.explanation.hypothesis if one.explanation else None
        said = (words.number(found.relative_entropy.value), words.number(found.column_cv), found.effect) if found else ("", "", "")
        measures = one.teacher.measures
        known = (words.count(one.teacher.parameters), words.percent(measures.accuracy, report.n), words.number(measures.ece))
        rows.append((one.teacher.label, *known, *said))
    yield from columns(rows, "<>>>>><", room=100)


def time_line(report: GapReport) -> str:
    """What the networks took, what the analysis took, and the optional parts apart."""
    networks = report.seconds.get("networks", 0.0)
    deep = sum(report.seconds.get(name, 0.0) for name in DEEP)
    rest = sum(report.seconds.values()) - networks - deep
    apart = f" · --deep {words.duration(deep)}" if deep else ""
    return f"  time     networks {words.duration(networks)} · analysis {words.duration(rest)}{apart}"
