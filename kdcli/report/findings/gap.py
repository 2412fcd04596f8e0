"""Sentences on what explains a gap: first the finding, then the numbers and limits that it rests
on.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdcli import formatting, tasks
from kdcli.report.findings.gap_tables import estimate, said_of_curve, settled, span
from kdcli.results.gap import GapReport, PairAt, PairReport
from kdcli.results.teacher import Effect, Hypothesis


def headline(report: GapReport) -> str:
    """One sentence about a whole report."""
    if report.curve:
        said = said_of_curve(report)
        return f"{said[0].upper()}{said[1:]}."
    if report.others:
        judged = [
            f"{one.teacher.label} amounts to {amount(one.explanation.hypothesis.effect)}"
            for one in report.reports
            if one.explanation and one.explanation.hypothesis
        ]
        return f"Distilling {formatting.listed(judged, most=4)}." if judged else "Several teachers."
    if report.students:
        return _pairs(report)
    found = report.explanation.hypothesis if report.explanation else None
    return (
        f"Distilling {report.teacher.label} amounts to {amount(found.effect)}: {answers(found)}."
        if found
        else _teacher(report)
    )


def lead(report: GapReport) -> Iterator[str]:
    """What the headline leaves open: what the teacher has to teach."""
    found = report.explanation.hypothesis if report.explanation else None
    if found and report.students and not report.others:
        yield what_there_is_to_learn(found)


def rests_on(report: GapReport) -> str:
    """The numbers and limits behind the verdict on the one teacher; nothing where there are
    several, or no verdict.
    """
    found = report.explanation.hypothesis if report.explanation else None
    return limits_of(found, report.n) if found and not report.others else ""


def _teacher(report: GapReport) -> str:
    teacher = report.teacher
    task, measures = tasks.of_data(report.data), teacher.measures
    return (
        f"{teacher.label} {task.headline.said(measures)} "
        f"{formatting.plural(measures.n, f'{report.split} {task.sample}')}."
    )


def _pairs(report: GapReport) -> str:
    pair = first_raw_pair(report)
    if pair is None or len({student.label for student in report.students}) > 1:
        return _best_of(report)
    student = next(
        each for each in report.students if each.label == pair.student and each.form == "raw"
    )
    size = relative_size(report.teacher.parameters / student.parameters)
    return (
        f"{pair.student} is {size} and "
        f"{tasks.of_data(report.data).headline.beside(student.measures, report.teacher.measures)} "
        "its "
        f"teacher{certainty(report)}."
    )


def _best_of(report: GapReport) -> str:
    """Several students of one size and one teacher: the most accurate, and whether it is so beyond
    chance.
    """
    students = [student for student in report.students if student.form == "raw"]
    headline = tasks.of_data(report.data).headline
    best, second = sorted(students, key=lambda each: -headline.score(each.measures))[:2]
    one, other = best.measures.labelled, second.measures.labelled
    if one is None or other is None:
        return ""
    clear = other.accuracy_interval.high < one.accuracy_interval.low
    how = "beyond chance" if clear else f"within noise of {second.label}: the intervals overlap"
    samples = f"the {report.split} {tasks.of_data(report.data).sample}s"
    if headline.path != "accuracy":  # its interval is that of a share
        return (
            f"Of {len(students)} students of {report.teacher.label}, {best.label} is the best: it "
            f"{headline.said(best.measures)} {samples}."
        )
    level = formatting.percent(best.measures.accuracy, report.n)
    return (
        f"Of {len(students)} students of {report.teacher.label}, {best.label} is the most "
        f"accurate: {level}, {how}."
    )


def relative_size(ratio: float) -> str:
    """A student beside a teacher of so many times its parameters; 0 for one without a network."""
    if ratio == 0:
        return "taught by ready-made answers"
    if 0.95 < ratio < 1.05:
        return "as large as its teacher"
    return (
        f"{formatting.times(ratio)} smaller"
        if ratio > 1
        else f"{formatting.times(1 / ratio)} larger"
    )


def certainty(report: GapReport) -> str:
    """The first student's entropy gap, as the end of a sentence; nothing where there is no pair."""
    pair = first_raw_pair(report)
    if pair is None:
        return ""
    gap = usual_temperature(pair).entropy
    return certainty_of(gap.value, may_be_zero=gap.low <= 0 <= gap.high)


def certainty_of(gap: float, *, may_be_zero: bool) -> str:
    """An entropy gap in nats, as the end of a sentence; nothing where it is not a number."""
    if not formatting.known(gap):
        return ""
    return (
        f"; entropy gap {formatting.signed(gap)} nats: it is {sure(gap, may_be_zero=may_be_zero)}"
    )


def sure(gap: float, *, may_be_zero: bool) -> str:
    """How sure a student is beside its teacher, by their entropy gap."""
    if may_be_zero:
        return "as sure as its teacher, as far as these samples can tell"
    return f"{'less' if gap > 0 else 'more'} sure than its teacher"


# ---- the distillation hypothesis -----------------------------------------------------------------


def amount(effect: Effect) -> str:
    """The name of a verdict beside the word distilling."""
    return "distillation proper" if effect == "distillation" else effect


def answers(found: Hypothesis) -> str:
    """What a teacher's answers are like, as the rule sees them."""
    limits, at = found.thresholds, f"at τ = {formatting.temperature(found.temperature)}"
    if found.column_cv < limits.constant:
        return f"{at} they are the same for all images of a class"
    if found.column_cv < limits.varied:
        return f"{at} its answers hardly vary within a class"
    if found.relative_entropy.value < limits.entropy:
        return f"{at} its answers vary from image to image but are not soft"
    return f"{at} its answers are soft and vary from image to image"


def what_there_is_to_learn(found: Hypothesis, whose: str = "teacher") -> str:
    """The verdict in a sentence. whose: what the page calls the network."""
    return (
        f"What the {whose} has to teach: {answers(found)}, so that distilling it amounts to "
        f"{amount(found.effect)}."
    )


def limits_of(found: Hypothesis, n: int) -> str:
    """The numbers and limits that the verdict rests on, and what to think of it."""
    limits = found.thresholds
    return (
        f"The verdict rests on entropy / log K = {estimate(found.relative_entropy)}, soft "
        f"from {formatting.number(limits.entropy, 2)} on, and on CV_col = "
        f"{span(found.column_cv, found.column_cv_interval)}, which is how much similarity "
        "labels vary "
        f"in a class, varied from {limits.varied:g} on and constant below "
        f"{limits.constant:g}; n = {formatting.thousands(n)}, {settled(found)}. "
        "The limits are kd's own: look at the numbers and the classes before the word."
    )


def first_raw_pair(gap: GapReport) -> PairReport | None:
    """The first student's comparison on its raw logits."""
    return next((pair for pair in gap.pairs if pair.form == "raw" and pair.at), None)


def usual_temperature(pair: PairReport) -> PairAt:
    """The comparison at temperature 1, where networks are used, or else at the first one."""
    return next((at for at in pair.at if at.temperature == 1), pair.at[0])


def ranked_classes(gap: GapReport, at: PairAt) -> list[tuple[str, float]]:
    """Classes that have samples, with their entropy gaps, the largest first."""
    found = [
        (name, value)
        for name, value in zip(gap.class_names, at.entropy_by_class, strict=True)
        if value is not None
    ]
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))
