"""The gap between a teacher and its students, or a teacher's own response profile, from their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kdcli.analysis.gap import Responses, compare
from kdcli.analysis.measures import measure
from kdcli.core.types import SplitName
from kdcli.engine.runtime import Runtime
from kdcli.errors import Incompatible
from kdcli.jobs.assemble import method_class
from kdcli.jobs.finish import check_gates
from kdcli.jobs.measured import Bench, Measured, distinct_labels, save_logits
from kdcli.recipe.schema import GatesSection
from kdcli.results import GapAt, GapReport, GateResult

PROFILE = (1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0, 15.0, 20.0)  # paper 001's temperatures, and the low ones between


def analyze_gap(
    teacher: str | Path,
    students: Sequence[str | Path] = (),
    *,
    temperatures: Sequence[float] | None = None,
    data: str | None = None,
    data_root: str | None = None,
    split: SplitName = "test",
    device: str = "auto",
    bootstrap: int = 1000,
    save_logits_to: Path | None = None,
    gates: GatesSection | None = None,
) -> GapReport:
    """Entropy and free-energy gaps of students against a teacher; without students, the teacher's response profile.

    Args:
        teacher, students: checkpoints or run directories.
        temperatures: 1 and 4 unless given; the profile's are PROFILE.
        bootstrap: resamples behind the intervals.
        save_logits_to: a safetensors file for "targets", "teacher", "student.LABEL" and "aligned.LABEL".
        gates: thresholds that every student must meet, at temperature 1 on raw logits.

    Raises:
        NotFound: a checkpoint or the data is not there. Incompatible: they do not fit each other.
    """
    bench = Bench(data=data, root=data_root, split=split, runtime=Runtime(device, precision="fp32"))
    taught = bench.measure(teacher)
    learnt = [bench.measure(student) for student in students]
    for item in learnt:
        _check_same_images(taught, item)
    info = bench.feed(taught.header).info
    responses = [_response(item, label, _aligned(item, taught)) for label, item in zip(distinct_labels(learnt), learnt, strict=True)]
    if save_logits_to is not None:
        save_logits(save_logits_to, _tensors(taught, responses))
    wanted = tuple(temperatures or ((1.0, 4.0) if students else PROFILE))
    # gates read temperature 1, whatever was asked for
    asked = gates or GatesSection()
    gated = asked.max_entropy_gap is not None or asked.max_free_energy_gap is not None
    report = compare(
        _response(taught, taught.label, None),
        responses,
        targets=taught.targets,
        class_names=info.class_names,
        data=info.name,
        split=split,
        temperatures=tuple(dict.fromkeys((*wanted, 1.0))) if gated else wanted,
        bootstrap=bootstrap,
    )
    return replace(report, gates=_gates(report, asked))


def _check_same_images(teacher: Measured, student: Measured) -> None:
    if teacher.header.num_classes != student.header.num_classes or not torch.equal(teacher.targets, student.targets):
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


def _tensors(teacher: Measured, students: Sequence[Responses]) -> dict[str, Tensor]:
    tensors = {"targets": teacher.targets, "teacher": teacher.logits}
    for item in students:
        tensors[f"student.{item.label}"] = item.logits
        if item.aligned is not None:
            tensors[f"aligned.{item.label}"] = item.aligned
    return tensors


def _gates(report: GapReport, gates: GatesSection) -> tuple[GateResult, ...]:
    raw = {student.label: student for student in report.students if student.form == "raw"}
    results: list[GateResult] = []
    for pair in report.pairs:
        if pair.form == "raw":
            at_one = next((at for at in pair.at if at.temperature == 1.0), None)
            gap = GapAt(1.0, at_one.entropy.value, at_one.free_energy.value) if at_one else None
            results += check_gates(gates, raw[pair.student].measures, gap, subject=pair.student if len(raw) > 1 else "")
    return tuple(results)
