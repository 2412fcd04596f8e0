"""`kd analyze-gap`: the gap between teachers and their students, or a teacher's own response
profile, from their checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from kdcli import tasks
from kdcli.core.types import SplitName
from kdcli.engine.runtime import Runtime
from kdcli.jobs.build.networks import checked_header
from kdcli.jobs.measure.answers import Answers, mean_of, taps
from kdcli.jobs.measure.explanations import PROFILE, Parts
from kdcli.jobs.measure.from_checkpoint import CheckpointEvaluator, labels_of, save_logits
from kdcli.jobs.measure.gap_report import Explain, aligned, gap_report, seen_by, teachers_of
from kdcli.jobs.measure.gates import Held, check_gates
from kdcli.recipe import measured_data
from kdcli.recipe.reading.layers import Layer
from kdcli.recipe.schema import GatesSection
from kdcli.results.gap import GapAt, GapReport
from kdcli.results.intervals import check_resamples
from kdcli.results.measures import GateResult
from kdcli.trust import named_by, trusting


def analyze_gap(
    teacher: str | Path | Sequence[str | Path],
    students: Sequence[str | Path] = (),
    *,
    shares: Sequence[float] | None = None,
    temperatures: Sequence[float] | None = None,
    data: str | None = None,
    overrides: Mapping[str, Any] | Layer | None = None,
    split: SplitName = "test",
    device: str = "auto",
    bootstrap: int = 1000,
    explain: bool = True,
    deep: bool = False,
    save_logits_to: Path | None = None,
    gates: GatesSection | None = None,
    trust: bool = False,
) -> GapReport:
    """Entropy and free-energy gaps of students against their teachers, and what explains them;
    without students, the teacher's response profile. Each network answers once.

    One student is compared with every teacher. Several students of several teachers are each
    compared with those that taught them, or with every teacher where none of these did.

    Args:
        teacher: a checkpoint or run directory, or several.
        students: checkpoints or run directories.
        shares: of the teachers in the weighted mean of their logits, by which they taught; they add
            up to 1. Students are then compared with that mean, and not with each teacher.
        temperatures: 1 and 4 unless given; the profile's are PROFILE.
        data, overrides: as for `evaluate`.
        bootstrap: resamples behind the intervals.
        explain: the explanations too, which cost about a tenth of the networks' own time.
        deep: also t-SNE, silhouette, CKA and latency, which cost more.
        save_logits_to: a safetensors file for "targets", "teacher", "student.LABEL" and, where the
            student's loss sees others, "aligned.LABEL" (its own) and "facing.LABEL" (the
            teacher's); with several teachers "teacher.LABEL" and "aligned.LABEL.TEACHER".
        gates: thresholds that every pair must meet, at temperature 1 on raw logits.
        trust: whether Python files run that the checkpoints name, and not the caller.

    Raises:
        UsageError: too many resamples. NotFound: a checkpoint or the data is not there.
        Incompatible: they do not fit each other. Untrusted: a checkpoint names a Python file.
    """
    check_resamples(bootstrap)
    runtime = Runtime(device, precision="fp32")
    about = measured_data.asked_for(data, overrides)
    evaluator = CheckpointEvaluator(about, split=split, runtime=runtime)
    evaluator.under_maps_of(students)
    if len(students) == 1:
        evaluator.on_data_of(students[0])
    parts, asked = Parts(), gates or GatesSection()
    header = checked_header(_first(teacher))[1]
    task = tasks.of_model(header.architecture, header.input_shape)
    explains = (explain or deep) and task.compares_classes
    wanted = taps(deep=deep) if explains else None
    if deep and not explains:
        parts.warnings.append(
            "what explains a gap compares classes, and the words of a text are too many for that: "
            "--deep is left out"
        )
    # how classes relate is said as the first student was taught it
    first, taught = checked_header(students[0]) if students else (None, None)
    kept: dict[str, list[Answers]] = {"teachers": [], "students": []}

    def answers(role: str, paths: Sequence[str | Path]) -> Iterator[Answers]:
        for path, label in zip(paths, labels_of(paths), strict=True):
            found = parts.timed("networks", partial(evaluator.answers, path, label, wanted))
            if taught is not None:
                with named_by(f"the header of {first}"):
                    seen = seen_by(taught.method, taught.method_options, found.info)
                found = replace(found, info=seen)
            if save_logits_to is not None:
                kept[role].append(found.without_features())
            yield found

    with trusting([about.get("data", "name")], everything=trust):
        teachers = answers("teachers", (teacher,) if isinstance(teacher, str | Path) else teacher)
        report = gap_report(
            teachers if shares is None else (mean_of([*teachers], shares),),
            answers("students", students),
            split=split,
            temperatures=_temperatures(
                temperatures or ((1.0, 4.0) if students else PROFILE), asked
            ),
            parts=parts,
            bootstrap=bootstrap,
            explain=Explain(deep, bootstrap) if wanted else None,
            every_teacher=len(students) == 1,
        )
        if save_logits_to is not None:
            each = kept["teachers"] if shares is None else [mean_of(kept["teachers"], shares)]
            save_logits(save_logits_to, _tensors(each, kept["students"]), each[0])
    return replace(
        report,
        gates=tuple(_gates(report, asked)),
        seconds=dict(parts.seconds),
        data_options=about.get("data") or {},
        shares=tuple(shares or ()),
    )


def _first(teacher: str | Path | Sequence[str | Path]) -> str | Path:
    return teacher if isinstance(teacher, str | Path) else teacher[0]


def _temperatures(given: Sequence[float], gates: GatesSection) -> tuple[float, ...]:
    """Gates on gaps read temperature 1, whatever was asked for."""
    gated = gates.max_entropy_gap is not None or gates.max_free_energy_gap is not None
    return tuple(dict.fromkeys((*given, 1.0))) if gated else tuple(given)


def _tensors(teachers: Sequence[Answers], students: Sequence[Answers]) -> dict[str, Tensor]:
    """Everything that was compared, by the names that the file has for it."""
    suffix = {item.label: f".{item.label}" if len(teachers) > 1 else "" for item in teachers}
    tensors = {"targets": teachers[0].targets, "teacher": teachers[0].logits}
    tensors |= {f"teacher{suffix[item.label]}": item.logits for item in teachers}
    for student in students:
        tensors[f"student.{student.label}"] = student.logits
        numbers = range(len(teachers)) if len(students) == 1 else teachers_of(student, teachers)
        for item in (teachers[number] for number in numbers):
            for name, seen in zip(("aligned", "facing"), aligned(student, item), strict=True):
                if seen is not None:
                    tensors[f"{name}.{student.label}{suffix[item.label]}"] = seen
    return tensors


def _gates(report: GapReport, gates: GatesSection) -> Iterator[GateResult]:
    reports = report.reports
    several = sum(pair.form == "raw" for one in reports for pair in one.pairs) > 1
    for one in reports:
        raw = {student.label: student for student in one.students if student.form == "raw"}
        for pair in one.pairs:
            if pair.form == "raw":
                at_one = next((at for at in pair.at if at.temperature == 1.0), None)
                gap = GapAt(1.0, at_one.entropy.value, at_one.free_energy.value) if at_one else None
                under = f" under {one.teacher.label}" if len(reports) > 1 else ""
                yield from check_gates(
                    gates,
                    Held(
                        raw[pair.student].measures,
                        gap,
                        teacher=one.teacher.measures,
                        agreement=pair.agreement,
                    ),
                    subject=f"{pair.student}{under}" if several else "",
                )
