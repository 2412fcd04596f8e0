"""How far a checkpoint answers as the teachers do that its run names: what there is to measure
where samples have no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from kdcli.analysis.checks import is_bare
from kdcli.analysis.metrics import agreement_of
from kdcli.core.teacher import Ensemble
from kdcli.errors import KdError, NotFound
from kdcli.jobs.build.job import load_teachers, showing
from kdcli.jobs.measure.answers import Answers, found, mean_of
from kdcli.jobs.measure.from_checkpoint import CheckpointEvaluator
from kdcli.recipe.resolve import resolve
from kdcli.recipe.schema import GatesSection, TeacherSection
from kdcli.results.run import RunResult
from kdcli.results.weights_header import MODEL_FILE, read_header
from kdcli.runs.find import from_here
from kdcli.runs.folder import RECIPE_FILE
from kdcli.runs.read import Run


def agreements(
    measured: Sequence[Answers], evaluator: CheckpointEvaluator, gates: GatesSection
) -> tuple[list[Answers], list[float | None], list[str]]:
    """The same answers, whose measures say how far they are those of the teachers where there are
    no labels; the agreement of each; and why that of some is not known.

    Args:
        gates: one on agreement asks for it of samples with labels, too.
    """
    found, shares, unknown = [], [], []
    for item in measured:
        bare = is_bare(item.targets)
        share, why = (
            _beside_its_teachers(item, evaluator)
            if bare or gates.min_agreement is not None
            else (None, None)
        )
        told = replace(item.measures, agreement=share) if bare else item.measures
        found.append(replace(item, measures=told))
        shares.append(share)
        unknown += [] if why is None else [why]
    return found, shares, unknown


def _beside_its_teachers(
    item: Answers, evaluator: CheckpointEvaluator
) -> tuple[float | None, str | None]:
    """The share of samples to which a checkpoint and its teachers, answering as one, give one
    likeliest class; or None, and a sentence that says why.
    """
    folder = Path(item.checkpoint).parent
    try:
        summary = Run.load(folder).summary if Path(item.checkpoint).name == MODEL_FILE else None
        if summary is not None and summary.command == "train-teacher":
            return None, None
        if summary is None or not summary.teachers:
            return None, f"{item.label} has no teacher to agree with, as far as its file tells"
        taught = _of_checkpoints(summary, folder, evaluator)
        if taught is None:
            taught = _of_recipe(item, folder, evaluator)
    except KdError as error:
        return None, f"agreement of {item.label} with its teacher is left out: {error.message}"
    return agreement_of(item.logits, taught), None


def _of_checkpoints(
    summary: RunResult, folder: Path, evaluator: CheckpointEvaluator
) -> Tensor | None:
    """The logits [n,K] of teachers that are checkpoints, in their weighted mean; None where one is
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
    return mean_of(answers, [teacher.weight for teacher in summary.teachers]).logits


def _of_recipe(item: Answers, folder: Path, evaluator: CheckpointEvaluator) -> Tensor:
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
    ).logits
