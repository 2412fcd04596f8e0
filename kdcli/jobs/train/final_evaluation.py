"""What is computed once, at the end: the test set is touched here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdcli.analysis.calibration import reliability
from kdcli.analysis.gap import Responses, compare
from kdcli.analysis.metrics import confusion, excluded, measure, per_class_accuracy
from kdcli.core.network import Network, parameter_count
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, SplitName
from kdcli.engine.evaluator import collect, evaluating
from kdcli.jobs.build.data_subset import missing_classes
from kdcli.jobs.build.header import architecture, make_header
from kdcli.jobs.build.job import Job
from kdcli.jobs.build.networks import LoadedTeacher
from kdcli.jobs.measure.answers import Answered
from kdcli.jobs.measure.explanations import PROFILE
from kdcli.jobs.measure.gap_report import explained
from kdcli.results.gap import GapAt, GapReport
from kdcli.results.measures import Excluded, Measures
from kdcli.results.run import RunAnalysis, TeacherSummary


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was measured at the end of a run."""

    test: Measures
    val: Measures | None
    teachers: tuple[TeacherSummary, ...]
    reference: TeacherSummary | None
    gap: GapAt | None
    gaps: tuple[GapAt, ...]
    analysis: RunAnalysis
    per_class: Mapping[str, float]
    excluded: Excluded | None


def network_logits(job: Job, network: Network, split: SplitName) -> tuple[Tensor, Tensor]:
    """Logits [n,K] and targets [n] of a network over a split, float32, on the CPU."""
    with evaluating(network):
        return collect(
            lambda batch: network(job.runtime.place(batch).x).logits, job.feed.split(split)
        )


def teacher_logits(job: Job, teacher: Teacher, split: SplitName) -> tuple[Tensor, Tensor]:
    """The same for a teacher, through its own input normalisation."""
    forward: Callable[[Batch], Tensor] = lambda batch: teacher(job.runtime.place(batch)).logits  # noqa: E731
    return collect(forward, job.feed.split(split))


def validation(job: Job) -> Callable[[Network], Measures | None]:
    """What the trainer calls after each epoch: measures on the held-out split, or None where
    nothing is held out.
    """

    def evaluate(network: Network) -> Measures | None:
        if job.feed.size("val") == 0:
            return None
        return measure(
            *network_logits(job, network, "val"), split="val", selected=job.recipe.train.select
        )

    return evaluate


def measure_outcome(job: Job, network: Network, label: str) -> Outcome:
    """Measure the finished network, its teachers and the gap between them.

    Args:
        network: the result, last or best epoch as the recipe says.
        label: the run's name, as the gap's tables show it.
    """
    names = job.feed.info.class_names
    logits, targets = network_logits(job, network, "test")
    test = measure(logits, targets, split="test", selected=job.recipe.train.select)
    curve = reliability(logits, targets)
    answers = _answers(job, targets)
    by_class = per_class_accuracy(logits, targets, names)
    missing = excluded(
        logits, targets, missing_classes(job.feed.info), names, answers.logits if answers else None
    )
    if answers is None:
        analysis = RunAnalysis(
            names,
            confusion(logits, targets, len(names)),
            {"network": curve},
            _as_teacher(job, network, logits, targets, test),
        )
        return Outcome(
            test, validation(job)(network), (), None, None, (), analysis, by_class, missing
        )
    student = _student(job, network, label, logits, answers.logits, test)
    report = _compare(job, answers.response(), [student], targets, job.recipe.report.temperatures)
    gaps = _gaps(report)
    if _explains(job):
        report = explained(
            job, report, answers.answered(job), _own(job, network, label, logits), targets
        )
    curves = {"teacher": reliability(answers.logits, targets), "student": curve}
    return Outcome(
        test=test,
        val=validation(job)(network),
        teachers=answers.summaries if job.teachers else (),
        reference=None if job.teachers else answers.summaries[0],
        gap=next(gap for gap in gaps if gap.temperature == 1.0 and not gap.aligned),
        gaps=gaps,
        analysis=RunAnalysis(names, confusion(logits, targets, len(names)), curves, report),
        per_class=by_class,
        excluded=missing,
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the gap is measured to: each teacher's summary, and the logits and measures of them
    answering as one.
    """

    summaries: tuple[TeacherSummary, ...]
    logits: Tensor
    measures: Measures
    first: LoadedTeacher

    @property
    def label(self) -> str:
        return (
            self.summaries[0].architecture
            if len(self.summaries) == 1
            else f"mean of {len(self.summaries)} teachers"
        )

    def response(self) -> Responses:
        first = self.summaries[0]
        return Responses(
            label=self.label,
            checkpoint=first.checkpoint,
            network=first.architecture,
            parameters=sum(summary.parameters for summary in self.summaries),
            method="none",
            logits=self.logits,
            aligned=None,
            measures=self.measures,
        )

    def answered(self, job: Job) -> Answered:
        """The same, as explanations need it."""
        teacher = self.first.teacher.live
        header = replace(
            make_header(job, job.method.deployable(), None, ""),
            architecture=self.first.architecture,
            arguments={},
            method_options={},
        )
        return Answered(
            self.label,
            header,
            teacher.network,
            self.logits,
            teacher,
            alone=len(self.summaries) == 1,
        )


def _answers(job: Job, targets: Tensor) -> _Answers | None:
    loaded = job.teachers or ((job.reference,) if job.reference is not None else ())
    if job.answering is None:
        return None
    each = [teacher_logits(job, item.teacher, "test")[0] for item in loaded]
    measured = [measure(logits, targets) for logits in each]
    summaries = tuple(
        replace(item.summary, test=test) for item, test in zip(loaded, measured, strict=True)
    )
    if len(each) == 1:
        return _Answers(summaries, each[0], measured[0], loaded[0])
    together = teacher_logits(job, job.answering, "test")[0]
    return _Answers(summaries, together, measure(together, targets), loaded[0])


def _student(
    job: Job, network: Network, label: str, logits: Tensor, v: Tensor, test: Measures
) -> Responses:
    with torch.no_grad():
        aligned = job.method.aligned(logits, v)
    return Responses(
        label=label,
        checkpoint="",
        network=architecture(network),
        parameters=parameter_count(network),
        method=job.recipe.method.name,
        logits=logits,
        aligned=None if aligned is logits else aligned,
        measures=test,
    )


def _explains(job: Job) -> bool:
    return job.recipe.report.explain and job.recipe.report.html


def _own(job: Job, network: Network, label: str, logits: Tensor) -> Answered:
    return Answered(
        label,
        make_header(job, network, None, ""),
        network,
        logits,
        lambda batch, taps: network(batch.x, taps),
    )


def _as_teacher(
    job: Job, network: Network, logits: Tensor, targets: Tensor, test: Measures
) -> GapReport | None:
    """What the network would have to teach; None where nobody asked, or where it has learned from
    something else than labels.
    """
    if not _explains(job) or job.recipe.KIND != "train-teacher":
        return None
    name = architecture(network)
    alone = Responses(
        label=name,
        checkpoint="",
        network=name,
        parameters=parameter_count(network),
        method=job.recipe.method.name,
        logits=logits,
        aligned=None,
        measures=test,
    )
    report = _compare(job, alone, [], targets, PROFILE)
    return explained(job, report, _own(job, network, name, logits), None, targets)


def _compare(
    job: Job,
    teacher: Responses,
    students: Sequence[Responses],
    targets: Tensor,
    temperatures: Sequence[float],
) -> GapReport:
    return compare(
        teacher,
        students,
        targets=targets,
        class_names=job.feed.info.class_names,
        data=job.feed.info.name,
        split="test",
        # gates read temperature 1, whatever the report shows
        temperatures=tuple(dict.fromkeys((1.0, *temperatures))),
        seed=job.recipe.seed,
    )


def _gaps(report: GapReport) -> tuple[GapAt, ...]:
    return tuple(
        GapAt(
            at.temperature, at.entropy.value, at.free_energy.value, aligned=pair.form == "aligned"
        )
        for pair in report.pairs
        for at in pair.at
    )
