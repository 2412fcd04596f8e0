"""The report of a gap: teachers and their students on the same samples, compared and explained.

`kd analyze-gap` and the end of a run make theirs here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from kdcli.analysis.checks import is_bare
from kdcli.analysis.degradation import degradation
from kdcli.analysis.gap import Responses, compare
from kdcli.analysis.text_gap import text_gap
from kdcli.core.types import DataInfo, SplitName
from kdcli.errors import KdError
from kdcli.jobs.build.method import method_class
from kdcli.jobs.measure.answers import Answers, check_same_samples
from kdcli.jobs.measure.costs import cost
from kdcli.jobs.measure.explanations import Parts, explain_pair, explain_teacher
from kdcli.results.cost import Cost
from kdcli.results.gap import GapReport
from kdcli.results.pair import DegradationCurve, PairExplanation
from kdcli.results.teacher import TeacherExplanation
from kdcli.results.text_gap import TextGap
from kdcli.trust import named_by


@dataclass(frozen=True, slots=True)
class Explain:
    """How far the explanations of a report go.

    deep: t-SNE, silhouette, CKA and latency too. bootstrap: resamples behind their intervals.
    """

    deep: bool = False
    bootstrap: int = 1000


def gap_report(
    teachers: Iterable[Answers],
    students: Iterable[Answers],
    *,
    split: SplitName,
    temperatures: Sequence[float],
    parts: Parts,
    bootstrap: int = 1000,
    explain: Explain | None = None,
    every_teacher: bool = True,
) -> GapReport:
    """Compares students with teachers, and says what explains each gap.

    Networks may answer as they are asked for: of each no more than the logits is kept, but for a
    teacher's features where explanations go deep.

    Args:
        teachers: one or more; several make one report each, the first holds the others.
        students: none for the teachers' own profiles.
        split: what they answered; recorded.
        temperatures: each > 0.
        parts: what runs explanations, and keeps their times and warnings.
        bootstrap: resamples behind the gaps' intervals, the same ones each time.
        explain: None for the gaps alone.
        every_teacher: compare a student with all teachers, not only with those that taught it.

    Raises:
        Incompatible: they did not answer the same samples. Others: as kdcli.analysis.gap.compare.
    """
    bare, teachers = _without_labels(teachers)
    if bare and explain is not None:
        explain = None
        parts.warnings.append("the samples have no labels: what explains a gap by them is left out")
    kept, explained, costs = _teachers(teachers, parts, explain)
    compared: list[list[Responses]] = [[] for _ in kept]
    pairs: list[list[PairExplanation]] = [[] for _ in kept]
    texts: list[list[TextGap]] = [[] for _ in kept]
    for student in students:
        check_same_samples(kept[0], student)
        if student.teachers and not any(item.sha256 in student.teachers for item in kept):
            named = ", ".join(item.label for item in kept)
            parts.warnings.append(f"{student.label} was not taught by {named}: by other weights")
        price = _cost(student, parts, explain)
        for number in range(len(kept)) if every_teacher else teachers_of(student, kept):
            teacher, paid = kept[number], costs[number]
            compared[number].append(student.response(*aligned(student, teacher)))
            texts[number] += _texts(student, teacher)
            if explain is not None and paid is not None and price is not None:
                pairs[number].append(_pair(teacher, student, parts, explain, (paid, price)))

    def report(number: int) -> GapReport:
        found = compare(
            kept[number].response(),
            compared[number],
            targets=kept[0].targets,
            class_names=kept[0].info.class_names,
            data=kept[0].info.name,
            split=split,
            temperatures=temperatures,
            bootstrap=bootstrap,
        )
        return replace(
            found,
            explanation=explained[number],
            explanations=tuple(pairs[number]),
            source=kept[0].source,
            texts=tuple(texts[number]),
        )

    first, *others = [
        parts.timed("gap", lambda number=number: report(number))  # type: ignore[misc]
        for number in range(len(kept))
    ]
    return replace(
        first,
        others=tuple(others),
        curve=_curve((first, *others), parts) if explain else None,
        warnings=_warnings(parts, kept),
    )


def _without_labels(teachers: Iterable[Answers]) -> tuple[bool, Iterable[Answers]]:
    """Tells whether what the first one answered has no labels; and all of them."""
    several = iter(teachers)
    first = next(several)
    return is_bare(first.targets), itertools.chain([first], several)


def _texts(student: Answers, teacher: Answers) -> Iterator[TextGap]:
    """Where, in a text, a student answers otherwise than its teacher; nothing of other samples."""
    if student.read is not None and teacher.read is not None:
        yield text_gap(
            student.label,
            student.logits,
            teacher.logits,
            student.targets,
            (student.read, teacher.read),
            trained_on=student.info.targets,
            names=student.info.class_names,
        )


def _teachers(
    teachers: Iterable[Answers], parts: Parts, explain: Explain | None
) -> tuple[list[Answers], list[TeacherExplanation | None], list[Cost | None]]:
    """The teachers, what is said of each alone, and what each costs; features are kept where
    explanations go deep.
    """
    kept: list[Answers] = []
    explained: list[TeacherExplanation | None] = []
    costs: list[Cost | None] = []
    for teacher in teachers:
        if kept:
            check_same_samples(kept[0], teacher)
        explained.append(
            explain_teacher(teacher, parts, deep=explain.deep, bootstrap=explain.bootstrap)
            if explain
            else None
        )
        costs.append(_cost(teacher, parts, explain))
        kept.append(teacher if explain and explain.deep else teacher.without_features())
    return kept, explained, costs


def aligned(student: Answers, teacher: Answers) -> tuple[Tensor | None, Tensor | None]:
    """Both logits as the loss of the student's method saw them, with the options that it was
    trained with, each [n,K]; None where these are the raw ones.
    """
    with torch.no_grad(), named_by(f"the header of {student.checkpoint}"):
        cls = method_class(student.method)
        options = cls.Options(**student.method_options)
        z, v = cls.aligned(options, student.as_trained, teacher.logits)
    return None if z is student.logits else z, None if v is teacher.logits else v


def seen_by(method: str, options: Mapping[str, Any], info: DataInfo) -> DataInfo:
    """The data with superclasses as a method with these options sees them."""
    cls = method_class(method)
    try:
        superclass = cls.superclass(cls.Options(**options), info)
    except KdError:  # other data than it was trained on, whose classes the option does not name
        return info
    return replace(info, superclass=superclass)


def teachers_of(student: Answers, teachers: Sequence[Answers]) -> list[int]:
    """The numbers of the teachers that taught a student; of all where none of these did."""
    own = [number for number, item in enumerate(teachers) if item.sha256 in student.teachers]
    return own or list(range(len(teachers)))


def _pair(
    teacher: Answers, student: Answers, parts: Parts, explain: Explain, costs: tuple[Cost, Cost]
) -> PairExplanation:
    return explain_pair(
        teacher,
        student,
        parts,
        deep=explain.deep,
        bootstrap=explain.bootstrap,
        costs=costs,
    )


def _cost(answers: Answers, parts: Parts, explain: Explain | None) -> Cost | None:
    if explain is None:
        return None
    if answers.cost is not None:
        return answers.cost
    image = answers.image
    assert image is not None

    def measured() -> Cost:
        return cost(answers.network, image, checkpoint=answers.checkpoint, timed=explain.deep)

    return parts.timed("latency" if explain.deep else "cost", measured)


def _curve(reports: Sequence[GapReport], parts: Parts) -> DegradationCurve | None:
    """Over the teachers where there are several, else over the students; None where all have one
    size.
    """
    varies: Literal["teacher", "student"] = "teacher" if len(reports) > 1 else "student"
    sides = (
        [report.teacher for report in reports if report.students]
        if varies == "teacher"
        else reports[0].students
    )
    if len({side.parameters for side in sides}) < 2 or sides[0].measures.labelled is None:
        return None
    at = 1.0 if 1.0 in reports[0].temperatures else reports[0].temperatures[0]
    return parts.attempt(
        "the curve", "all pairs", lambda: degradation(reports, varies=varies, temperature=at)
    )


def _warnings(parts: Parts, teachers: Sequence[Answers]) -> tuple[str, ...]:
    """Each once; one sentence for all that several teachers who answer as one cannot give."""
    notes = list(parts.warnings)
    if explained := [teacher for teacher in teachers if not teacher.alone]:
        without = "no features and no last layer in common, so that what needs those is left out"
        notes = [
            *(f"{teacher.label}: {without}" for teacher in explained),
            *(note for note in notes if "no tap 'pooled'" not in note),
        ]
    return tuple(dict.fromkeys(notes))
