"""The gap between teachers and their students, or a teacher's own response profile, from their
checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kdcli.advice import Advice
from kdcli.analysis.degradation import degradation
from kdcli.analysis.gap import Responses, compare
from kdcli.analysis.metrics import measure
from kdcli.core.types import DataInfo, SplitName
from kdcli.engine.runtime import Runtime
from kdcli.errors import Incompatible
from kdcli.jobs.advise import advise, caution
from kdcli.jobs.build.job import method_class
from kdcli.jobs.measure.answers import Measured, Side, taps
from kdcli.jobs.measure.explanations import PROFILE, Parts, cost, explain_pair, explain_teacher
from kdcli.jobs.measure.from_checkpoint import Bench, distinct, label_of, save_logits
from kdcli.jobs.measure.gates import check_gates
from kdcli.recipe.schema import GatesSection
from kdcli.results.gap import GapAt, GapReport
from kdcli.results.measures import GateResult
from kdcli.results.pair import Cost, DegradationCurve, PairExplanation
from kdcli.results.teacher import TeacherExplanation
from kdcli.results.weights_header import CheckpointHeader, read_header


@dataclass(slots=True, eq=False)
class _Taught:
    """A teacher, what was found of it, and its students so far."""

    side: Side
    response: Responses
    cost: Cost | None
    explanation: TeacherExplanation | None
    students: list[Responses] = field(default_factory=list)
    explanations: list[PairExplanation] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _How:
    """What the caller asked for."""

    explain: bool
    deep: bool
    bootstrap: int


def analyze_gap(
    teacher: str | Path | Sequence[str | Path],
    students: Sequence[str | Path] = (),
    *,
    temperatures: Sequence[float] | None = None,
    data: str | None = None,
    data_root: str | None = None,
    split: SplitName = "test",
    device: str = "auto",
    bootstrap: int = 1000,
    explain: bool = True,
    deep: bool = False,
    advice: bool = False,
    save_logits_to: Path | None = None,
    gates: GatesSection | None = None,
) -> GapReport:
    """Entropy and free-energy gaps of students against their teachers, and what explains them;
    without students, the teacher's response profile. Each network answers once.

    One student is compared with every teacher. Several students of several teachers are each
    compared with those that taught them, or with every teacher where none of these did.

    Args:
        teacher: a checkpoint or run directory, or several.
        students: checkpoints or run directories.
        temperatures: 1 and 4 unless given; the profile's are PROFILE.
        bootstrap: resamples behind the intervals.
        explain: the explanations too, which cost about a tenth of the networks' own time.
        deep: also t-SNE, silhouette, CKA and latency, which cost more.
        advice: also which teacher to distil, how, and whether that is worth following; at the
            temperatures, if given.
        save_logits_to: a safetensors file for "targets", "teacher", "student.LABEL" and
            "aligned.LABEL"; with several teachers "teacher.LABEL" and "aligned.LABEL.TEACHER".
        gates: thresholds that every pair must meet, at temperature 1 on raw logits.

    Raises:
        NotFound: a checkpoint or the data is not there. Incompatible: they do not fit each other.
    """
    runtime = Runtime(device, precision="fp32")
    bench = Bench(data=data, root=data_root, split=split, runtime=runtime)
    how, parts = _How(explain or deep, deep, bootstrap), Parts()
    paths = (teacher,) if isinstance(teacher, str | Path) else tuple(teacher)
    teachers = _teachers(bench, paths, parts, how)
    for path, label in zip(students, _labels(students), strict=True):
        _add_student(bench, teachers, path, label, parts, how, alone=len(students) == 1)
    first, info = teachers[0], bench.feed(teachers[0].side.item.header).info
    if save_logits_to is not None:
        save_logits(save_logits_to, _tensors(teachers))
    asked = gates or GatesSection()
    wanted = _temperatures(temperatures or ((1.0, 4.0) if students else PROFILE), asked)

    def report_of(one: _Taught) -> GapReport:
        return parts.timed("gap", lambda: _report(one, info, first, split, wanted, bootstrap))

    reports = [report_of(one) for one in teachers]
    return replace(
        reports[0],
        others=tuple(reports[1:]),
        gates=tuple(_gates(reports, asked)),
        curve=_curve(reports, parts) if how.explain else None,
        advice=_advice(teachers, info, temperatures, split, parts) if advice else None,
        seconds=dict(parts.seconds),
        warnings=tuple(dict.fromkeys(parts.warnings)),
    )


def _temperatures(given: Sequence[float], gates: GatesSection) -> tuple[float, ...]:
    """Gates on gaps read temperature 1, whatever was asked for."""
    gated = gates.max_entropy_gap is not None or gates.max_free_energy_gap is not None
    return tuple(dict.fromkeys((*given, 1.0))) if gated else tuple(given)


def _labels(paths: Sequence[str | Path]) -> list[str]:
    return distinct(label_of(read_header(path)[0]) for path in paths)


# ---- measuring and explaining --------------------------------------------------------------------


def _measure(bench: Bench, path: str | Path, label: str, parts: Parts, how: _How) -> Side:
    wanted = taps(deep=how.deep) if how.explain else None
    return Side(label, parts.timed("networks", lambda: bench.measure(path, wanted)))


def _cost(bench: Bench, side: Side, parts: Parts, how: _How) -> Cost | None:
    if not how.explain:
        return None
    return parts.timed(
        "latency" if how.deep else "cost",
        lambda: cost(side.item, bench.image(side.item.header), timed=how.deep),
    )


def _slim(side: Side, *, keep: bool) -> Side:
    """Without its features, unless they are needed again: those of many networks would not fit."""
    return side if keep else Side(side.label, replace(side.item, features={}))


def _teachers(bench: Bench, paths: Sequence[str | Path], parts: Parts, how: _How) -> list[_Taught]:
    found: list[_Taught] = []
    for path, label in zip(paths, _labels(paths), strict=True):
        side = _measure(bench, path, label, parts, how)
        if found:
            _check_same_images(found[0].side.item, side.item)
        response = _response(side.item, label, None)
        info = bench.feed(side.item.header).info
        said = (
            explain_teacher(side, info, parts, deep=how.deep, bootstrap=how.bootstrap)
            if how.explain
            else None
        )
        found.append(
            _Taught(_slim(side, keep=how.deep), response, _cost(bench, side, parts, how), said)
        )
    return found


def _add_student(
    bench: Bench,
    teachers: Sequence[_Taught],
    path: str | Path,
    label: str,
    parts: Parts,
    how: _How,
    *,
    alone: bool,
) -> None:
    """Measure a student, and compare it with its teachers."""
    side = _measure(bench, path, label, parts, how)
    _check_same_images(teachers[0].side.item, side.item)
    price = _cost(bench, side, parts, how)
    for taught in teachers if alone else _teachers_of(side.item.header, teachers):
        taught.students.append(_response(side.item, label, _aligned(side.item, taught.side.item)))
        if price is not None and taught.cost is not None:
            taught.explanations.append(
                explain_pair(
                    taught.side,
                    side,
                    parts,
                    deep=how.deep,
                    bootstrap=how.bootstrap,
                    costs=(taught.cost, price),
                    device=bench.device,
                )
            )


def _teachers_of(student: CheckpointHeader, teachers: Sequence[_Taught]) -> Sequence[_Taught]:
    mine = [
        taught for taught in teachers if taught.side.item.header.tensors_sha256 in student.teachers
    ]
    return mine or teachers


# ---- reports -------------------------------------------------------------------------------------


def _report(
    taught: _Taught,
    info: DataInfo,
    first: _Taught,
    split: SplitName,
    temperatures: Sequence[float],
    bootstrap: int,
) -> GapReport:
    report = compare(
        taught.response,
        taught.students,
        targets=first.side.item.targets,
        class_names=info.class_names,
        data=info.name,
        split=split,
        temperatures=temperatures,
        bootstrap=bootstrap,
    )
    return replace(report, explanation=taught.explanation, explanations=tuple(taught.explanations))


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
    if len({side.parameters for side in sides}) < 2:
        return None
    at = 1.0 if 1.0 in reports[0].temperatures else reports[0].temperatures[0]
    return parts.attempt(
        "the curve", "all pairs", lambda: degradation(reports, varies=varies, temperature=at)
    )


def _advice(
    teachers: Sequence[_Taught],
    info: DataInfo,
    temperatures: Sequence[float] | None,
    split: SplitName,
    parts: Parts,
) -> Advice | None:
    found = parts.attempt(
        "advice", "the teachers", lambda: advise([one.side for one in teachers], info, temperatures)
    )
    parts.warnings += caution(split) if found else ()
    return found


def _check_same_images(teacher: Measured, student: Measured) -> None:
    if teacher.header.num_classes != student.header.num_classes or not torch.equal(
        teacher.targets, student.targets
    ):
        names = f"{teacher.header.data.get('name')} and {student.header.data.get('name')}"
        raise Incompatible(
            f"{teacher.label} and {student.label} are not measured on the same images ({names})",
            hint="-d DATA measures both on one dataset",
        )


def _response(item: Measured, label: str, aligned: Tensor | None) -> Responses:
    header = item.header
    return Responses(
        label=label,
        checkpoint=str(item.path),
        network=header.architecture,
        parameters=header.parameters,
        method=header.method,
        logits=item.logits,
        aligned=aligned,
        measures=measure(item.logits, item.targets),
    )


def _aligned(student: Measured, teacher: Measured) -> Tensor | None:
    """The student's logits as its method's loss saw them, or None where that is the raw ones."""
    with torch.no_grad():
        aligned = method_class(student.header.method).aligned(student.logits, teacher.logits)
    return None if aligned is student.logits else aligned


def _tensors(teachers: Sequence[_Taught]) -> dict[str, Tensor]:
    first = teachers[0]
    tensors = {"targets": first.side.item.targets, "teacher": first.side.logits}
    for taught in teachers:
        suffix = f".{taught.side.label}" if len(teachers) > 1 else ""
        tensors[f"teacher{suffix}"] = taught.side.logits
        for item in taught.students:
            tensors[f"student.{item.label}"] = item.logits
            if item.aligned is not None:
                tensors[f"aligned.{item.label}{suffix}"] = item.aligned
    return tensors


def _gates(reports: Sequence[GapReport], gates: GatesSection) -> Iterator[GateResult]:
    several = sum(pair.form == "raw" for report in reports for pair in report.pairs) > 1
    for report in reports:
        raw = {student.label: student for student in report.students if student.form == "raw"}
        for pair in report.pairs:
            if pair.form == "raw":
                at_one = next((at for at in pair.at if at.temperature == 1.0), None)
                gap = GapAt(1.0, at_one.entropy.value, at_one.free_energy.value) if at_one else None
                under = f" under {report.teacher.label}" if len(reports) > 1 else ""
                yield from check_gates(
                    gates,
                    raw[pair.student].measures,
                    gap,
                    subject=f"{pair.student}{under}" if several else "",
                )
