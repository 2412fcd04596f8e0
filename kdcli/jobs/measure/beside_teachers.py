"""Checkpoints beside the teachers that their runs name, on the same samples: how far they answer
alike, which is what there is to measure where samples have no labels, and who is more accurate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdcli.analysis.checks import is_bare
from kdcli.analysis.metrics import agreement_of
from kdcli.core.teacher import Ensemble
from kdcli.errors import KdError, NotFound
from kdcli.jobs.build.job import load_teachers, showing
from kdcli.jobs.measure.answers import Answers, Found, found, mean_of
from kdcli.jobs.measure.from_checkpoint import CheckpointEvaluator
from kdcli.recipe.resolve import resolve
from kdcli.recipe.schema import GatesSection, TeacherSection
from kdcli.results.measures import Measures
from kdcli.results.run import RunResult
from kdcli.results.weights_header import MODEL_FILE, read_header
from kdcli.runs.find import from_here
from kdcli.runs.folder import RECIPE_FILE
from kdcli.runs.read import Run


@dataclass(frozen=True, slots=True)
class Beside:
    """A checkpoint beside its teachers, who answer as one. agreement: the share of samples to which
    both give one likeliest class. teacher: their measures. None where that was not asked, or is
    not known.
    """

    agreement: float | None = None
    teacher: Measures | None = None


def beside_teachers(
    measured: Sequence[Answers], evaluator: CheckpointEvaluator, gates: GatesSection
) -> tuple[list[Answers], list[Beside], list[str]]:
    """The same answers, whose measures say how far they are those of the teachers where there are
    no labels; each beside its teachers; and why that of some is not known.

    Args:
        gates: one on agreement, or on the distance to the teacher, asks for it of samples with
            labels, too.
    """
    told, each, unknown = [], [], []
    asked = gates.min_agreement is not None or gates.within is not None
    for item in measured:
        bare = is_bare(item.targets)
        beside, why = _beside(item, evaluator, asked=asked) if bare or asked else (Beside(), None)
        measures = replace(item.measures, agreement=beside.agreement) if bare else item.measures
        told.append(replace(item, measures=measures))
        each.append(beside)
        unknown += [] if why is None else [why]
    return told, each, unknown


def _beside(
    item: Answers, evaluator: CheckpointEvaluator, *, asked: bool
) -> tuple[Beside, str | None]:
    """A checkpoint beside its teachers, and a sentence that says why that is not known."""
    folder = Path(item.checkpoint).parent
    try:
        summary = Run.load(folder).summary if Path(item.checkpoint).name == MODEL_FILE else None
        if summary is not None and summary.command == "train-teacher" and not asked:
            return Beside(), None
        if summary is None or not summary.teachers:
            return Beside(), f"{item.label} has no teacher, as far as its file tells"
        taught = _of_checkpoints(summary, folder, evaluator)
        if taught is None:
            taught = _of_recipe(item, folder, evaluator)
    except KdError as error:
        return Beside(), f"{item.label} is not compared with its teacher: {error.message}"
    return Beside(agreement_of(item.logits, taught.logits), taught.measures), None


def _of_checkpoints(
    summary: RunResult, folder: Path, evaluator: CheckpointEvaluator
) -> Found | None:
    """What teachers that are checkpoints answer, in their weighted mean; None where one is
    something else.
    """
    paths = [from_here(folder, teacher.checkpoint) for teacher in summary.teachers]
    if not all(teacher.sha256 for teacher in summary.teachers):
        return None
    for path, teacher in zip(paths, summary.teachers, strict=True):
        if read_header(path)[1].tensors_sha256 != teacher.sha256:
            raise NotFound(f"{path} has other weights than those that taught it")
    evaluator.on_data_of(folder)
    answers = [evaluator.answers(path) for path in paths]
    mean = mean_of(answers, [teacher.weight for teacher in summary.teachers])
    return Found(mean.logits, mean.targets, mean.measures)


def _of_recipe(item: Answers, folder: Path, evaluator: CheckpointEvaluator) -> Found:
    """The same of teachers by name, or of ready-made answers, as the run's recipe has them."""

    def no_recipe(section: TeacherSection) -> Path:
        raise NotFound(f"the teacher of {section.recipe} is not there")

    recipe = resolve("distill", file=folder / RECIPE_FILE).recipe
    feed, _ = evaluator.feed(*read_header(item.checkpoint))
    runtime, split = evaluator.runtime, evaluator.split
    loaded = load_teachers(recipe, feed, runtime, no_recipe)
    each = [one.teacher for one in loaded]
    weights = [one.summary.weight for one in loaded]
    teacher = (each[0] if len(each) == 1 else Ensemble(each, weights)).of(split)
    if teacher is None:
        raise NotFound(f"there are no answers to the {split} split")
    batches = showing(feed, loaded).split(split)
    return found(
        lambda batch: teacher(runtime.place(batch)).logits,
        batches,
        feed.info,
        feed.size(split),
        split=split,
    )
