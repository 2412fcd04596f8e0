"""The evaluation at the end of a run, done once: the test set is touched here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from kdcli import tasks
from kdcli.analysis.calibration import answers, calibration_error, reliability
from kdcli.analysis.checks import is_bare
from kdcli.analysis.metrics import (
    agreement_of,
    confusion,
    excluded,
    per_class_accuracy,
    right_answers,
)
from kdcli.core.network import Network, parameter_count
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output
from kdcli.engine.evaluator import collect, evaluating
from kdcli.engine.events import EpochDone
from kdcli.engine.runtime import nothing_compiled
from kdcli.engine.teachers.ready import NoNetwork
from kdcli.engine.teachers.sharded import is_sharded
from kdcli.jobs.build.class_weights import weighed_nothing
from kdcli.jobs.build.data_subset import missing_classes
from kdcli.jobs.build.header import architecture
from kdcli.jobs.build.job import Job
from kdcli.jobs.build.teachers import LoadedTeacher
from kdcli.jobs.measure.answers import Answers, mean_of
from kdcli.jobs.measure.chance import chance, result_warnings
from kdcli.jobs.measure.costs import cost, size_of
from kdcli.jobs.measure.explanations import PROFILE, Parts
from kdcli.jobs.measure.gap_report import Explain, gap_report, seen_by
from kdcli.jobs.measure.gates import Held, check_gates, with_counts
from kdcli.jobs.train.asking import HeldOut, network_answers, teacher_answers
from kdcli.jobs.train.mistakes import mistakes_if_any
from kdcli.jobs.train.rounding import rounded_difference, rounded_points
from kdcli.results.cost import Cost
from kdcli.results.gap import GapAt, GapReport
from kdcli.results.measures import EnergyAt, Excluded, Measures
from kdcli.results.mistakes import Mistakes
from kdcli.results.run import FoldedTemperature, RunAnalysis, RunResult, TeacherSummary
from kdcli.results.weights_header import MODEL_FILE

# of one network's features: where they would be more, what needs them is left to kd analyze-gap
FEATURE_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was measured at the end of a run."""

    test: Measures
    val: Measures | None
    teachers: tuple[TeacherSummary, ...]
    reference: TeacherSummary | None
    gap: GapAt | None
    gaps: tuple[GapAt, ...]
    energies: tuple[EnergyAt, ...]
    teacher_energies: tuple[EnergyAt, ...]
    analysis: RunAnalysis
    per_class: Mapping[str, float]
    excluded: Excluded | None
    cost: Cost | None
    calibration: FoldedTemperature | None
    warnings: tuple[str, ...]
    agreement: float | None
    held: Held
    mistakes: Mistakes | None = None


def measure_outcome(
    job: Job, network: Network, label: str, folded: FoldedTemperature | None = None
) -> Outcome:
    """Measures the finished network, its teachers and the gap between them.

    Args:
        network: the result, last or best epoch as the recipe says.
        label: the run's name, as the gap's tables show it.
        folded: what was folded into the network, if a temperature was to be.
    """
    names, task = job.feed.info.class_names, tasks.named(job.feed.info.task)
    own = replace(
        _own_answers(job, network, label),
        folded_temperature=None if folded is None else folded.temperature,
    )
    costs, left_out = _costs(job, network)
    own = replace(own, cost=costs[0])
    logits, targets = own.logits, own.targets
    teacher, summaries = _teacher_answers(job, targets, costs[1:])
    theirs, labelled = None if teacher is None else teacher.logits, not is_bare(targets)
    if theirs is not None and not labelled:
        agreement = agreement_of(logits, theirs)
        own = replace(own, measures=replace(own.measures, agreement=agreement))
    answered = {} if theirs is None else {"teacher": theirs}
    answered |= {"network" if teacher is None else "student": logits}
    curves = {name: reliability(z, targets) for name, z in answered.items() if labelled}
    most = job.recipe.report.pictures if job.recipe.report.html and labelled else 0
    mistakes, unseen = mistakes_if_any(job.feed, logits, theirs, targets, most)
    report = _gap(job, own, teacher)
    gaps = report.gaps if report is not None else ()
    by_class = task.compares_classes and labelled
    shares = per_class_accuracy(logits, targets, names) if by_class else {}
    at_one = next((gap for gap in gaps if gap.temperature == 1.0 and not gap.aligned), None)
    return Outcome(
        test=own.measures,
        val=HeldOut(job).measures(network),
        teachers=summaries if job.teachers else (),
        reference=None if job.teachers or not summaries else summaries[0],
        gap=at_one,
        gaps=gaps,
        energies=own.energies(job.recipe.report.temperatures),
        teacher_energies=()
        if teacher is None
        else teacher.energies(job.recipe.report.temperatures),
        analysis=RunAnalysis(
            names,
            confusion(logits, targets, len(names)) if by_class else (),
            curves,
            report,
            right_answers(logits, targets) if by_class else None,
        ),
        per_class=shares,
        excluded=excluded(logits, targets, missing_classes(job.feed.info), names, theirs)
        if labelled
        else None,
        cost=own.cost,
        warnings=(
            *left_out,
            *unseen,
            *_warnings(job, own, summaries),
            *weighed_nothing(job.recipe.method.name, job.class_weights),
        ),
        agreement=_agreement(report),
        calibration=None if folded is None else _before_and_after(folded, own),
        held=replace(_held(job, own, teacher, shares, at_one), agreement=_agreement(report)),
        mistakes=mistakes,
    )


def _agreement(report: GapReport | None) -> float | None:
    pairs = () if report is None else report.pairs
    return next((pair.agreement for pair in pairs if pair.form == "raw"), None)


def _warnings(job: Job, own: Answers, beside: Sequence[TeacherSummary]) -> Iterator[str]:
    """What is to be said of accuracies near chance."""
    classes, sample = len(job.feed.info.class_names), tasks.named(job.feed.info.task).sample
    guess = chance(own.targets, classes)
    name = "the student" if job.teachers else "the network"
    yield from result_warnings(name, own.measures, guess, classes, sample)
    for known in beside if job.teachers else ():
        if known.test is not None:
            name = f"teacher {known.checkpoint}"
            yield from result_warnings(name, known.test, guess, classes, sample)


def _held(
    job: Job,
    own: Answers,
    teacher: Answers | None,
    shares: Mapping[str, float],
    gap: GapAt | None,
) -> Held:
    """The network as gates see it. shares: its accuracies by class."""
    release = job.release
    return Held(
        own.measures,
        gap,
        by_class=with_counts(shares, own.targets),
        parameters=own.parameters,
        cost=own.cost,
        teacher=teacher.measures if teacher is not None and job.teachers else None,
        release=None if release is None else _answers_of(job, release, own.targets).measures,
    )


def _before_and_after(folded: FoldedTemperature, own: Answers) -> FoldedTemperature:
    """The same with the test split's likelihood and calibration error, before and after."""
    if folded.temperature is None:
        return folded
    if is_bare(own.targets):
        return folded
    before = answers(own.logits, own.targets, 1 / folded.temperature)
    return replace(
        folded,
        nll_before=-before.log_p.mean().item(),
        nll_after=own.measures.nll,
        ece_before=calibration_error(before.confidence, before.correct),
        ece_after=own.measures.ece,
    )


def run_result(
    job: Job,
    run: Path,
    outcome: Outcome,
    network: Network,
    last: EpochDone | None,
    recipe_sha256: str,
    wall_seconds: float,
) -> RunResult:
    """Makes the record of summary.json.

    Args:
        run: its folder. last: the epoch that ended last. wall_seconds: from its start, without the
            time in which it was stopped.
    """
    recipe = job.recipe
    return RunResult(
        command=recipe.KIND,
        run=str(run),
        checkpoint=str(run / MODEL_FILE),
        name=run.name,
        network=architecture(network),
        parameters=parameter_count(network),
        data=recipe.data.name,
        method=recipe.method.name,
        seed=recipe.seed,
        epochs=recipe.train.epochs,
        device=str(job.runtime.device),
        precision=job.runtime.precision_choice.value,
        test=outcome.test,
        val=outcome.val,
        train_accuracy=(
            last.train_accuracy if last and not math.isnan(last.train_accuracy) else None
        ),
        unlabelled=job.feed.info.unlabelled,
        agreement=outcome.agreement,
        train_loss=sum(last.losses.values()) if last else None,
        train_losses=last.losses if last else {},
        per_class=outcome.per_class,
        excluded=outcome.excluded,
        calibration=outcome.calibration,
        teachers=outcome.teachers,
        reference=outcome.reference,
        gap=outcome.gap,
        gaps=outcome.gaps,
        energies=outcome.energies,
        teacher_energies=outcome.teacher_energies,
        gates=check_gates(recipe.gates, outcome.held),
        recipe_sha256=recipe_sha256,
        wall_seconds=wall_seconds,
        cost=outcome.cost and replace(outcome.cost, size_bytes=size_of(run / MODEL_FILE)),
        images_per_second=last.images_per_second if last else 0.0,
        peak_memory_mib=job.runtime.peak_memory_mib(),
        warnings=outcome.warnings,
        notes=job.notes,
        continues=recipe.train.continues,
    )


# ---- answers to the test split -------------------------------------------------------------------


def _own_answers(job: Job, network: Network, label: str) -> Answers:
    logits, targets, measures, read = network_answers(job, network, "test")
    return Answers(
        label=label,
        checkpoint="",
        architecture=architecture(network),
        parameters=parameter_count(network),
        method=job.recipe.method.name,
        method_options=job.recipe.method.options,
        epochs=job.recipe.train.epochs,
        network=network,
        info=job.feed.info,
        logits=logits,
        targets=targets,
        measures=measures,
        read=read,
    )


def _teacher_answers(
    job: Job, targets: Tensor, costs: Sequence[Cost | None]
) -> tuple[Answers | None, tuple[TeacherSummary, ...]]:
    """The answers that the gap is measured to, several teachers as the one that the method listens
    to; and each of them, measured. Nothing where there is neither a teacher nor a reference.
    """
    if job.answering is None:
        return None, ()
    loaded = _beside(job)
    if any(item.teacher.of("test") is None for item in loaded):
        return None, tuple(item.summary for item in loaded)
    each = [
        replace(_answers_of(job, item, targets), cost=paid)
        for item, paid in zip(loaded, costs, strict=True)
    ]
    summaries = tuple(
        replace(item.summary, test=answers.measures, cost=answers.cost)
        for item, answers in zip(loaded, each, strict=True)
    )
    return mean_of(each, [summary.weight for summary in summaries]), summaries


def _beside(job: Job) -> tuple[LoadedTeacher, ...]:
    """The teachers, or the reference where there are none."""
    return job.teachers or ((job.reference,) if job.reference is not None else ())


def _costs(job: Job, network: Network) -> tuple[list[Cost | None], tuple[str, ...]]:
    """What the network and then each that it is measured beside cost, and a warning where that
    cannot be found out: somebody's own network may do anything, and its weights are not saved yet.
    """
    every = [
        (network, ""),
        *((item.teacher.live.network, item.summary.checkpoint) for item in _beside(job)),
    ]
    try:
        batch = _first_images(job)
        with nothing_compiled():
            report, left_out = job.recipe.report, list[str]()
            found: list[Cost | None] = [
                None
                if isinstance(each, NoNetwork)
                else cost(
                    each,
                    _one(job, _seen(job, each, batch)),
                    checkpoint=path,
                    # how long ranks need to gather it says nothing of the network
                    timed=not is_sharded(each)
                    and (report.latency or job.recipe.gates.max_latency_ms is not None),
                    forms=report.forms if report.latency and not is_sharded(each) else (),
                    left_out=left_out,
                )
                for each, path in every
            ]
    except Exception as error:  # noqa: BLE001  as said
        told = f"what the networks cost is left out: {type(error).__name__}: {error}"
        return [None] * len(every), (told,)
    return found, tuple(left_out)


def _answers_of(job: Job, loaded: LoadedTeacher, targets: Tensor) -> Answers:
    """A teacher's own answers, as `kd evaluate` would find them."""
    known = loaded.summary
    logits, _, measures, read = teacher_answers(
        job, loaded.teacher, "test", known.test.selected if known.test else "last"
    )
    return Answers(
        label=known.architecture,
        checkpoint=known.checkpoint,
        architecture=known.architecture,
        parameters=known.parameters,
        method="none",
        network=loaded.teacher.live.network,
        info=seen_by(job.recipe.method.name, job.recipe.method.options, job.feed.info),
        logits=logits,
        targets=targets,
        measures=measures,
        read=read,
    )


# ---- the gap -------------------------------------------------------------------------------------


def _gap(job: Job, own: Answers, teacher: Answers | None) -> GapReport | None:
    """The gap to the teacher; of a network that learned from labels, where explanations are wanted,
    what it would have to teach.
    """
    explains = (
        job.recipe.report.explain
        and job.recipe.report.html
        and "test" not in job.feed.info.bare  # nor without labels
        # what explains a gap is asked of networks
        and not any(isinstance(item.teacher.network, NoNetwork) for item in job.teachers)
        and tasks.named(job.feed.info.task).compares_classes
    )
    if teacher is not None:
        return _report(job, teacher, own, _temperatures(job), explains=explains)
    if explains and job.recipe.KIND == "train-teacher":
        return _report(job, replace(own, label=own.architecture), None, PROFILE, explains=True)
    return None


def _temperatures(job: Job) -> tuple[float, ...]:
    """Those of [report], and the one that the method softens with."""
    asked = job.recipe.report.temperatures
    used = job.recipe.method.options.get("temperature")
    if not isinstance(used, int | float) or used in {1.0, *asked}:
        return asked
    return tuple(sorted((*asked, float(used))))


def _report(
    job: Job,
    teacher: Answers,
    student: Answers | None,
    temperatures: Sequence[float],
    *,
    explains: bool,
) -> GapReport:
    """The report of a gap that never costs the run: explanations that fail are left out, with a
    warning.
    """

    def report(explain: Explain | None, teacher: Answers, student: Answers | None) -> GapReport:
        return gap_report(
            (teacher,),
            () if student is None else (student,),
            split="test",
            # gates read temperature 1, whatever the report shows
            temperatures=tuple(dict.fromkeys((1.0, *temperatures))),
            parts=Parts(),
            explain=explain,
        )

    if not explains:
        return report(None, teacher, student)
    own = teacher if student is None else student
    try:
        # taps are asked of a compiled network here alone: nothing to compile for
        with nothing_compiled(), evaluating(own.network):
            found = report(
                Explain(),
                _with_features(job, teacher),
                None if student is None else _with_features(job, student),
            )
    except Exception as error:  # noqa: BLE001  weights that took days are not saved yet, and somebody's own network may do anything
        without = f"the explanations are left out: {type(error).__name__}: {error}"
        return replace(report(None, teacher, student), warnings=(without,))
    return replace(
        found,
        explanation=found.explanation and rounded_points(found.explanation),
        explanations=tuple(
            replace(pair, differences=tuple(map(rounded_difference, pair.differences)))
            for pair in found.explanations
        ),
    )


def _with_features(job: Job, answers: Answers) -> Answers:
    """The same, with what feeds the last layer for every test image where that is not too much, and
    with the first image.
    """
    network, tap = answers.network, answers.network.taps.get("pooled")
    image = _seen(job, network, _first_images(job))[:1]
    size = 4 * tap.channels * job.feed.size("test") if tap is not None else 0
    if not answers.alone or not size or size > FEATURE_BYTES:
        return replace(answers, image=image)
    ask = _asked(job, network)
    pooled, _ = collect(
        lambda batch: ask(job.runtime.place(batch), ("pooled",)).taps["pooled"],
        job.feed.split("test"),
    )
    return replace(answers, image=image, features={"pooled": pooled.flatten(1)})


def _asked(job: Job, network: Network) -> Callable[[Batch, tuple[str, ...]], Output]:
    """What a batch and taps are put to: a teacher sees pixels as those that it was trained on, the
    run's own network as they are.
    """
    teacher = _teacher_of(job, network)
    known = None if teacher is None else teacher.of("test")
    return known or (lambda batch, taps: network(batch.x, taps))


def _one(job: Job, x: Tensor) -> Tensor:
    """One of what a network sees, [1,C,H,W]; of a text that is read on and on one token."""
    return x[:1] if tasks.named(job.feed.info.task).fixed_shape else x[:1, :, :, :1]


def _first_images(job: Job) -> Batch:
    return job.runtime.place(next(iter(job.feed.split("test"))))


def _seen(job: Job, network: Network, batch: Batch) -> Tensor:
    """What a network sees of a batch, [B,C,H,W]."""
    teacher = _teacher_of(job, network)
    return batch.x if teacher is None else teacher.seen(batch)


def _teacher_of(job: Job, network: Network) -> Teacher | None:
    for loaded in _beside(job):
        if loaded.teacher.live.network is network:
            return loaded.teacher.live
    return None
